"""NumPy archives, compared with `numpy.load`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rebasin_core import open_checkpoint
from rebasin_core.errors import FileFormatError

ARRAYS: dict[str, Any] = {
    "layer/0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.ones(3, np.float16),
    "big endian": np.arange(3, dtype=">f4"),
    "scalar": np.float64(2.5),
    "none": np.zeros((0, 3)),
    "count": np.arange(3),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_tensors_are_those_of_numpy_load(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.npz", **ARRAYS)
    found, expected = open_checkpoint(tmp_path / "a.npz"), np.load(tmp_path / "a.npz")
    assert found.format == "npz"
    assert found.tensors.keys() == set(expected.files)
    for name in expected.files:
        assert found.tensors[name].shape == expected[name].shape
        assert found.tensors[name].tolist() == expected[name].tolist()
        assert str(found.tensors[name].dtype).removeprefix("torch.") == expected[name].dtype.name


def test_the_archive_does_not_change(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    before = (tmp_path / "a.npz").read_bytes()
    tensor = open_checkpoint(tmp_path / "a.npz").tensors["a"]
    tensor.zero_()
    assert torch.equal(tensor, torch.zeros(3, dtype=torch.float64))
    assert (tmp_path / "a.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([None]), "contains objects"),
        (np.array(["a"]), "arrays of numbers, got dtype <U1 for `a`"),
        (np.zeros(3, [("x", "f4")]), "contains objects"),
    ],
    ids=["objects", "texts", "records"],
)
def test_arrays_of_other_types(tmp_path: Path, array: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(FileFormatError, match=message):
        open_checkpoint(tmp_path / "a.npz")


def test_archives_that_expand_to_far_more_are_not_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(20_000_000))
    with pytest.raises(FileFormatError, match="more than 50 times as much"):
        open_checkpoint(tmp_path / "a.npz")


def test_truncated_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(100))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(FileFormatError, match=r"zip archive.*damaged or truncated"):
        open_checkpoint(tmp_path / "a.npz")


def test_large_directories_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for index in range(3):
            archive.writestr(f"{index}.npy", b"")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[-10:-6] = (2**30).to_bytes(4, "little")  # size of the directory
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(FileFormatError, match="without a readable directory"):
        open_checkpoint(tmp_path / "a.npz")
