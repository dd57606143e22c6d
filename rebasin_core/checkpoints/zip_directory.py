"""Directories of zip archives (``.pt``, ``.npz``) from untrusted sources, read with bounded memory."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a zip archive with at least one entry."""

_TRAILER_MAGIC = b"PK\x05\x06"
_TRAILER_BYTES = 22
_HEADER_BYTES = 30
_TRAILER64_LOCATOR_MAGIC = b"PK\x06\x07"
_TRAILER64_LOCATOR_BYTES = 20
_TRAILER64_BYTES = 56
_MAX_COMMENT_BYTES = 2**16
_MAX_DIRECTORY_BYTES = 32 * 2**20  # 100 bytes an entry: 300,000 tensors
_UNKNOWN_SIZE = 0xFFFFFFFF


def zip_entries(path: Path) -> Sequence[zipfile.ZipInfo]:
    """Return the entries in the directory of a zip archive.

    Args:
        path: The archive.

    Returns:
        The entries.

    Raises:
        BadZipFile: If the directory is missing (a truncated file), damaged, or has more than 32 MiB.
    """
    size = _directory_size(path)
    if size > _MAX_DIRECTORY_BYTES:
        message = f"the directory of the zip archive has {size} bytes, expected at most {_MAX_DIRECTORY_BYTES}"
        raise zipfile.BadZipFile(message)
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def zip_names(path: Path) -> Sequence[str]:
    """Return the names in the directory of a zip archive.

    Args:
        path: The archive.

    Returns:
        The names; empty if the file is not a readable zip archive.
    """
    try:
        return [entry.filename for entry in zip_entries(path)]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return ()


def data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return the position of the content of an entry in the archive.

    Args:
        path: The archive.
        entry: An entry of its directory.

    Returns:
        The position in bytes from the start of the file.

    Raises:
        BadZipFile: If there is no entry at the position in the directory.
    """
    with path.open("rb") as handle:
        handle.seek(entry.header_offset)
        header = handle.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(ZIP_MAGIC):
        message = f"no entry at byte {entry.header_offset} of the archive"
        raise zipfile.BadZipFile(message)
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return entry.header_offset + _HEADER_BYTES + name_length + extra_length


def _directory_size(path: Path) -> int:
    """Return the size in bytes of the directory according to the last records of the archive."""
    size = path.stat().st_size
    length = min(size, _MAX_COMMENT_BYTES + _TRAILER_BYTES + _TRAILER64_LOCATOR_BYTES + _TRAILER64_BYTES)
    with path.open("rb") as handle:
        handle.seek(size - length)
        tail = handle.read(length)
    trailer = tail.rfind(_TRAILER_MAGIC)
    if trailer < 0:
        message = "the zip archive has no directory; the file is truncated or damaged"
        raise zipfile.BadZipFile(message)
    found = int.from_bytes(tail[trailer + 12 : trailer + 16], "little")
    locator = trailer - _TRAILER64_LOCATOR_BYTES
    if found == _UNKNOWN_SIZE and locator >= 0 and tail[locator:].startswith(_TRAILER64_LOCATOR_MAGIC):
        record = max(locator - _TRAILER64_BYTES, 0)
        found = int.from_bytes(tail[record + 40 : record + 48], "little")
    return found
