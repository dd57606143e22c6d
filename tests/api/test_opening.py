"""Formats are recognized from the content; an unknown one is described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from typing_extensions import override

from rebasin_core import Checkpoint, CheckpointReader, Registry, hookimpl, open_checkpoint
from rebasin_core.errors import FileFormatError, InvalidInputError, PluginError
from rebasin_core.studies.planning.contents import Contents


class LinesReader(CheckpointReader):
    name: Literal["lines"] = "lines"

    @override
    def recognizes(self, path: Path, head: bytes) -> bool:
        return head.startswith((b"lines", b"\x10"))

    @override
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        values = [float(line) for line in path.read_text(encoding="utf-8").split()[1:]]
        return Checkpoint(path, self.name, {"a": torch.tensor(values)}, files=(path,), shards={"a": path.name})


def with_plugin() -> Registry:
    def rebasin_checkpoint_readers() -> Sequence[type[CheckpointReader]]:
        return [LinesReader]

    registry = Registry(external=False)
    plugin = ModuleType("lines_plugin")
    vars(plugin)["rebasin_checkpoint_readers"] = hookimpl(rebasin_checkpoint_readers)
    registry.manager.register(plugin)
    return registry


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.npz")
    assert open_checkpoint(str(tmp_path / "a.npz")).tensors["a"].tolist() == [1, 1, 1]


def test_a_reader_of_a_plugin_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("lines\n1\n2", encoding="utf-8")
    assert open_checkpoint(tmp_path / "a", registry=with_plugin()).tensors["a"].tolist() == [1, 2]


def test_the_code_of_a_reader_belongs_to_the_identity_of_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("lines\n1\n2", encoding="utf-8")
    save_file({"a": torch.ones(3)}, tmp_path / "b")
    contents = Contents(with_plugin())
    assert contents.code_of_file(tmp_path / "a").keys() == {"lines_plugin"}
    assert contents.code_of_file(tmp_path / "b") == {}


def test_errors_of_a_reader_are_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("lines\none", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"could not convert.*in the format 'lines'"):
        open_checkpoint(tmp_path / "a", registry=with_plugin())


def test_a_format_of_two_readers_names_both(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x10" + bytes(7) + b'{"a":{}}')
    with pytest.raises(PluginError, match=r"'lines' of .* and 'safetensors' of rebasin-core.*REBASIN_PLUGINS"):
        open_checkpoint(tmp_path / "a", registry=with_plugin())


def test_unknown_files_are_described(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x93unknown")
    with pytest.raises(FileFormatError, match=r"unknown format that starts with.*x93unknown"):
        open_checkpoint(tmp_path / "a")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        open_checkpoint(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="expected a path"):
        open_checkpoint(3)  # type: ignore[arg-type] # a wrong argument
    with pytest.raises(FileFormatError, match="null"):
        open_checkpoint("a\0b")
