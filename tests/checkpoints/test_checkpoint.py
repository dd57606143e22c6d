"""Checkpoints: mapped tensors, sizes and digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_core import Checkpoint, open_checkpoint
from rebasin_core.errors import FileFormatError


def written(path: Path, **tensors: torch.Tensor) -> Checkpoint:
    save_file(tensors, path)
    return open_checkpoint(path)


def test_size_is_that_of_the_tensors(tmp_path: Path) -> None:
    found = written(tmp_path / "a.safetensors", a=torch.zeros(3, 5, dtype=torch.bfloat16), b=torch.zeros(7))
    assert found.num_bytes == 2 * 15 + 4 * 7


def test_digests_follow_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    found = written(path, a=torch.zeros(3))
    assert found.digests() == {"a.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}
    written(path, a=torch.ones(3))
    os.utime(path, ns=(0, 0))
    assert found.digests() == {"a.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_digests_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(tmp_path / "a.safetensors", a=torch.zeros(3))
    first = found.digests()
    monkeypatch.setattr("rebasin_core.checkpoints.checkpoint.digest_of_file", lambda _: "other")
    assert found.digests() == first


def test_digests_of_a_missing_file(tmp_path: Path) -> None:
    found = written(tmp_path / "a.safetensors", a=torch.zeros(3))
    found.path.unlink()
    with pytest.raises(FileFormatError, match="No such file"):
        found.digests()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_entries_are_read_when_they_are_used(tmp_path: Path) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return sum(int(status.split(f"{kind}:")[1].split()[0]) for kind in ("RssAnon", "RssFile")) * 1024

    path = tmp_path / "a.safetensors"
    size = 64 * 2**20
    save_file({"a": torch.ones(size // 8), "b": torch.ones(size // 8)}, path)
    before = resident()
    tensors = open_checkpoint(path).tensors
    assert resident() - before < size / 16
    assert tensors["a"].sum() == size // 8
    assert size / 4 < resident() - before < size * 3 / 4
