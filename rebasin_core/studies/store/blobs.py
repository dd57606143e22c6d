"""Verification of stored files, with a cache of the files that were verified before."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.studies.store.artifact import StoredFile


@final
class VerifiedFiles:
    """Local files whose content has been verified by this process.

    A file is read again if its size, its time of modification or its inode has changed.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, ...]] = {}

    def require(self, path: Path, file: StoredFile) -> None:
        """Raise if a local file does not have the expected content.

        Args:
            path: Path of the file.
            file: Expected digest and size.

        Raises:
            FileFormatError: If the file is missing, not a regular file, or its content differs.
        """
        size = regular_size(path)
        if size != file.size:
            message = f"{shown(path)} has {size} bytes, expected {file.size}"
            raise FileFormatError(message)
        state = _state(path)
        if self._known.get(path) == state:
            return
        if digest_of_file(path) != file.sha256:
            message = f"the checksum of {shown(path)} does not match its content"
            raise FileFormatError(message)
        self._known[path] = state


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        message = f"cannot read {shown(path)}: {reason(error)}"
        raise FileFormatError(message) from error
    return status.st_size, status.st_mtime_ns, status.st_ino
