"""Single safetensors files, compared with the library `safetensors`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core import open_checkpoint
from rebasin_core.checkpoints import SafetensorsReader
from rebasin_core.errors import FileFormatError, InvalidInputError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def test_tensors_are_those_that_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    given = {str(dtype): torch.arange(-3, 3).reshape(2, 3).to(dtype) for dtype in DTYPES}
    save_file({**given, "scalar": torch.tensor(2.5), "none": torch.zeros(0, 4)}, path, metadata={"format": "pt"})
    found, expected = open_checkpoint(path), load_file(path)
    assert found.format == "safetensors"
    assert found.metadata == {"format": "pt"}
    assert found.files == (path,)
    assert set(found.shards.values()) == {"a.safetensors"}
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert torch.equal(found.tensors[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def test_entries_are_for_formats_with_nested_state_dicts(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match=r"has no entries, got entry 'model'; omit it"):
        SafetensorsReader().read(tmp_path / "a.safetensors", entry="model")


def test_damaged_files_raise_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(300)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="damaged or truncated") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "x" * 501])
def test_names_that_cannot_be_printed_are_errors(tmp_path: Path, name: str) -> None:
    save_file({name: torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError, match="printable names of at most 500 characters") as caught:
        open_checkpoint(tmp_path / "a.safetensors")
    assert str(caught.value).isprintable()


def test_a_file_without_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError, match="contains no tensors"):
        open_checkpoint(tmp_path / "a.safetensors")
