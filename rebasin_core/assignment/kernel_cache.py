"""The cache folder of compiled kernels; damaged and old files are removed."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PRIVATE = 0o700
_WRITABLE_BY_OTHERS = 0o022
# Number of hexadecimal digits of a library's hash in its file name.
_DIGITS = 32
# A kernel that no process has loaded for 90 days belongs to another version or machine.
_SECONDS_KEPT = 90 * 86400
# Temporary files older than an hour were left by a process that was killed.
_SECONDS_WRITTEN = 3600
_SECONDS_A_DAY = 86400


def user_folder() -> Path | None:
    """Return the user's cache folder; None if it cannot be created or written, or if other users may write there."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "rebasin_core"
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return None
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return folder if is_own and not status.st_mode & _WRITABLE_BY_OTHERS and os.access(folder, os.W_OK) else None


def kept_libraries(folder: Path, key: str) -> list[tuple[Path, bytes]]:
    """Return the undamaged libraries of a key, and remove the damaged ones.

    The name of a library ends with the hash of its content. Truncated or replaced files are thus detected before they
    are loaded, since loading them could crash the process.

    Args:
        folder: The cache folder.
        key: Hash of everything that determines a library.

    Returns:
        Paths and contents of the files.
    """
    found: list[tuple[Path, bytes]] = []
    for path in sorted(folder.glob(f"{_stem(key)}-*.so")):
        with suppress(OSError):  # removed by another process, or not readable: the library is built again
            if not stat.S_ISREG(path.lstat().st_mode):
                continue
            content = path.read_bytes()
            if path.name == _name(key, content):
                _note_use(path)
                found.append((path, content))
            else:
                path.unlink()
    return found


def keep_library(folder: Path, key: str, content: bytes) -> Path | None:
    """Write a library atomically, and remove old files.

    Args:
        folder: The cache folder.
        key: Hash of everything that determines the library.
        content: The bytes of the library.

    Returns:
        Path of the file; None if it cannot be written, in which case the next process builds it again.
    """
    path = folder / _name(key, content)
    try:
        _write(path, content)
    except OSError:
        return None
    _remove_old(folder)
    return path


def _write(path: Path, content: bytes) -> None:
    """Write a temporary file and rename it; other processes never read an incomplete file."""
    descriptor, written = tempfile.mkstemp(prefix=".assignment-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(written).replace(path)
    finally:
        Path(written).unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    """Remove kernels that were not loaded for 90 days, and unfinished temporary files."""
    for pattern, seconds in (("assignment-*.so", _SECONDS_KEPT), (".assignment-*.part", _SECONDS_WRITTEN)):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > seconds:
                    path.unlink()


def _note_use(path: Path) -> None:
    """Update the modification time of a library, by which old ones are recognized, at most once a day."""
    if time.time() - path.stat().st_mtime > _SECONDS_A_DAY:
        os.utime(path)


def _stem(key: str) -> str:
    return f"assignment-{key}"


def _name(key: str, content: bytes) -> str:
    return f"{_stem(key)}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.so"
