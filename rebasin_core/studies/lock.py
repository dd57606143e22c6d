"""The lock of a folder: one command at a time writes into it."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Self, final

from rebasin_core.errors import StorageError
from rebasin_core.tensors.reading import reason

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK = ".rebasin.lock"
"""The name of the lock's file. It stays in the folder, empty when nobody holds it."""

_LONGEST = 200


@final
class FolderLock:
    """Exclusive use of a folder, for as long as the block runs.

    The operating system holds the lock and gives it back when the process ends, however it ends, so that a killed
    command leaves no lock behind. The file says who holds it, for the message to whoever comes second.

    Args:
        folder: The folder; made if it does not exist.

    Raises:
        StorageError: On entering, if another process (or this one) holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None

    def __enter__(self) -> Self:
        """Take the lock, and write down who has it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except (OSError, ValueError) as error:
            message = f"cannot use {self._folder} as an output folder: {reason(error)}"
            raise StorageError(message) from error
        if not _take(handle):
            holder = os.read(handle, _LONGEST).decode(errors="replace").strip() or "another process"
            os.close(handle)
            message = (
                f"{self._folder} is in use: {holder} is running there. Nothing was changed; wait until it ends, or "
                "choose another output folder"
            )
            raise StorageError(message)
        self._handle = handle
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back. The file stays: removing it could take a lock from under another process."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None


def _take(handle: int) -> bool:
    """Lock an open file without waiting; return whether that succeeded."""
    if sys.platform == "win32":
        import msvcrt  # ruff: ignore[import-outside-top-level] - exists on that system only

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl  # ruff: ignore[import-outside-top-level] - does not exist on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
