"""Arrays in NumPy's archives (``.npz``): nothing is executed, and no more memory is taken than there is."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib import format as npy

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.bounds import MAX_DATA_BYTES
from rebasin_core.tensors.memory import free_memory
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import IO, Any

    from numpy.typing import NDArray

_SUFFIX = ".npy"
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path | str, *, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file.

    Args:
        path: The file.
        names: The arrays to read, all of which must be there; all that the file has if not given.

    Returns:
        The arrays by name.

    Raises:
        FileFormatError: If the file is missing, damaged or truncated, holds objects, lacks an array, or would take more
            memory than there is.
    """
    regular_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(_SUFFIX): info.file_size for info in archive.infolist()}
            wanted = list(sizes) if names is None else list(names)
            _require_room(sum(sizes[name] for name in wanted))
            return {name: _array(archive, name, sizes[name]) for name in wanted}
    except _DAMAGED as error:
        missing = isinstance(error, KeyError)
        why = f"it has no array {error}" if missing else reason(error)
        message = f"cannot read {shown(Path(path))}: {why}. Expected an .npz of numbers"
        raise FileFormatError(message) from error


def _array(archive: zipfile.ZipFile, name: str, size: int) -> NDArray[Any]:
    member = name + _SUFFIX if name + _SUFFIX in archive.namelist() else name
    with archive.open(member) as stream:
        return _read(stream, name, size)


def _read(stream: IO[bytes], name: str, size: int) -> NDArray[Any]:
    """Return the array in a stream of a known number of bytes, which is compared with what its header promises."""
    version = npy.read_magic(stream)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        message = f"{name!r} is in version {version} of the format"
        raise ValueError(message)
    # Version 3 differs from 2 in the text encoding alone, which matters to names of fields: not read here.
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.fields is not None:
        message = f"{name!r} holds objects"
        raise ValueError(message)
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or expected + stream.tell() != size:
        message = f"{name!r} should have {expected} bytes for shape {shape}, and has {size - stream.tell()}"
        raise ValueError(message)
    content = stream.read(expected + 1)
    if len(content) != expected:
        message = f"{name!r} is truncated: {len(content)} of {expected} bytes"
        raise ValueError(message)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _require_room(size: int) -> None:
    free = free_memory(torch.device("cpu"))
    # Twice: as bytes, and as the array.
    if size > MAX_DATA_BYTES or 2 * size > free:
        message = f"it expands to {size} bytes, and {free} bytes of memory are free"
        raise ValueError(message)
