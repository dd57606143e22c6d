"""Lock of an output folder: only one command at a time writes to it."""

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
"""Name of the lock file. The file remains in the folder, and is empty when the lock is not held."""

_MAX_LENGTH = 200


@final
class FolderLock:
    """Context manager for exclusive use of a folder.

    The operating system releases the lock when the process exits, even if it is killed. The lock file contains the
    process and host that hold the lock, for the error message of a second process.

    Args:
        folder: The folder; created if it does not exist.

    Raises:
        StorageError: On entering, if another process (or this one) holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None

    def __enter__(self) -> Self:
        """Acquire the lock, and write the process and host to its file."""
        handle = self._opened()
        if not _acquire(handle):
            holder = os.read(handle, _MAX_LENGTH).decode(errors="replace").strip() or "another process"
            os.close(handle)
            message = (
                f"{self._folder} is in use by {holder}; wait until it ends, or choose another output folder. Nothing "
                "was changed"
            )
            raise StorageError(message)
        if not self._is_current(handle):  # the process that held the lock has removed the folder
            os.close(handle)
            return self.__enter__()
        self._handle = handle
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock. The file is kept, because another process may be about to lock it."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

    def _opened(self) -> int:
        """Open the lock file."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except (OSError, ValueError) as error:
            message = f"cannot use {self._folder} as an output folder: {reason(error)}"
            raise StorageError(message) from error

    def _is_current(self, handle: int) -> bool:
        """Return whether an open file is the lock file in the folder."""
        try:
            return os.path.samestat(os.fstat(handle), (self._folder / LOCK).stat())
        except OSError:
            return False


def _acquire(handle: int) -> bool:
    """Lock an open file without waiting; return whether it succeeded."""
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
