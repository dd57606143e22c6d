"""Reader of NumPy archives with one array for each tensor."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from typing_extensions import override

from rebasin_core.checkpoints.base import CheckpointReader, require_no_entry
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.zip_directory import ZIP_MAGIC, data_offset, zip_entries, zip_names
from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.archives import read_header, read_npz
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

_SUFFIX = ".npy"
_MAX_UNCHECKED_BYTES = 2**26
_MAX_COMPRESSION = 50


@final
class NpzReader(CheckpointReader):
    """Reads an ``.npz`` file. Arrays that are not compressed, as by `numpy.savez`, are mapped to memory."""

    name: Literal["npz"] = "npz"

    @override
    def recognizes(self, path: Path, head: bytes) -> bool:
        names = zip_names(path) if head.startswith(ZIP_MAGIC) else ()
        return bool(names) and all(name.endswith(_SUFFIX) for name in names)

    @override
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        require_no_entry(path, entry, "an .npz file")
        entries = zip_entries(path)
        stored = [each for each in entries if each.compress_type == zipfile.ZIP_STORED]
        compressed = [each.filename.removesuffix(_SUFFIX) for each in entries if each not in stored]
        arrays = {each.filename.removesuffix(_SUFFIX): _mapped(path, each) for each in stored}
        _require_plausible(path, sum(each.file_size for each in entries if each not in stored))
        arrays |= read_npz(path, names=compressed) if compressed else {}
        tensors = _tensors(path, arrays)
        return Checkpoint(path, self.name, tensors, files=(path,), shards=dict.fromkeys(tensors, path.name))


def _require_plausible(path: Path, size: int) -> None:
    """Raise if compressed arrays expand to far more than numbers of a network can."""
    compressed = path.stat().st_size
    if size > max(_MAX_UNCHECKED_BYTES, _MAX_COMPRESSION * compressed):
        message = f"its {compressed} bytes expand to {size}, more than {_MAX_COMPRESSION} times as much"
        raise ValueError(message)


def _mapped(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of an archive, mapped to memory copy on write."""
    start = data_offset(path, entry)
    with path.open("rb") as stream:
        stream.seek(start)
        shape, fortran, dtype = read_header(stream, entry.filename, entry.file_size)
        offset = stream.tell()
    order: Literal["F", "C"] = "F" if fortran else "C"
    if 0 in shape:
        return np.zeros(shape, dtype, order)
    # Of one dimension, since maps without dimensions are not supported. As an array, without the class of maps.
    flat = np.asarray(np.memmap(path, dtype, "c", offset, (int(np.prod(shape, dtype=np.int64)),)))
    return flat.reshape(shape, order=order)


def _tensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    other = [name for name, array in arrays.items() if array.dtype.kind not in "biufc"]
    if other:
        dtypes = sorted({str(arrays[name].dtype) for name in other})
        message = f"{shown(path)}: expected arrays of numbers, got dtype {', '.join(dtypes)} for {shorten(other)}"
        raise FileFormatError(message)
    # PyTorch supports only the byte order of the machine.
    native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    return {name: torch.from_numpy(array) for name, array in native.items()}
