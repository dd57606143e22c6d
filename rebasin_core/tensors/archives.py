"""Reading of NumPy archives (``.npz``) without executing code or exceeding the free memory."""

from __future__ import annotations

import math
import tokenize
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
    tokenize.TokenError,
)


def read_npz(path: Path | str, *, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file.

    Args:
        path: Path of the file.
        names: Names of the arrays to read; all arrays of the file if None.

    Returns:
        The arrays by name.

    Raises:
        FileFormatError: If the file is missing, damaged or truncated, contains objects, lacks an array, or needs more
            memory than is free.
    """
    regular_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(_SUFFIX): info.file_size for info in archive.infolist()}
            wanted = list(sizes) if names is None else list(names)
            _require_memory(sum(sizes[name] for name in wanted))
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


def read_header(stream: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array, after which the stream is at its entries.

    Args:
        stream: A stream at the start of an array in the format ``.npy``.
        name: Name of the array, for messages.
        size: Number of bytes of the array with its header.

    Returns:
        The shape, whether the order of entries is Fortran's, and the dtype.

    Raises:
        ValueError: If the header is damaged, describes objects, or a shape that does not have this size.
    """
    start = stream.tell()
    version = npy.read_magic(stream)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        message = f"{name!r} has version {version} of the format, which is not supported"
        raise ValueError(message)
    # Version 3 differs from 2 only in the encoding of field names; structured arrays are not supported.
    read_shape = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_shape(stream)
    if dtype.hasobject or dtype.fields is not None:
        message = f"{name!r} contains objects"
        raise ValueError(message)
    expected = math.prod(shape) * dtype.itemsize
    got = size - (stream.tell() - start)
    if min(shape, default=1) < 0 or expected != got:
        message = f"expected {expected} bytes of {name!r} for shape {shape}, got {got}"
        raise ValueError(message)
    return shape, fortran, dtype


def _read(stream: IO[bytes], name: str, size: int) -> NDArray[Any]:
    """Return the array in a stream; raise if the size of the stream differs from the shape in its header."""
    shape, fortran, dtype = read_header(stream, name, size)
    expected = math.prod(shape) * dtype.itemsize
    content = stream.read(expected + 1)
    if len(content) != expected:
        message = f"{name!r} is truncated: {len(content)} of {expected} bytes"
        raise ValueError(message)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _require_memory(size: int) -> None:
    free = free_memory(torch.device("cpu"))
    # Twice the size: the bytes, and the array.
    if size > MAX_DATA_BYTES or 2 * size > free:
        message = f"it expands to {size} bytes, and {free} bytes of memory are free"
        raise ValueError(message)
