"""The folder in which compiled kernels are kept: only whole ones are given back, and old ones are removed."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PRIVATE = 0o700
_OF_OTHERS = 0o022
# Digits of the hash of a library, in its name.
_DIGITS = 32
# A kernel that no process has loaded for so long belongs to a version or a machine that is gone.
_SECONDS_KEPT = 90 * 86400
# Files are written in far less; what is older was left behind by a process that was killed.
_SECONDS_WRITTEN = 3600
_SECONDS_A_DAY = 86400


def user_folder() -> Path | None:
    """Return the user's cache folder; None if it cannot be made or written, or if others may write there."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "rebasin_core"
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # also without a home
        return None
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return folder if mine and not status.st_mode & _OF_OTHERS and os.access(folder, os.W_OK) else None


def kept_libraries(folder: Path, key: str) -> list[tuple[Path, bytes]]:
    """Return the whole libraries that are kept under a key; remove those that are damaged.

    The name of a library ends with the hash of its content: what was cut off, emptied or replaced is known before it is
    loaded, which could end the process.

    Args:
        folder: The cache folder.
        key: Of everything that determines a library.

    Returns:
        Files and their content.
    """
    found: list[tuple[Path, bytes]] = []
    for path in sorted(folder.glob(f"{_stem(key)}-*.so")):
        with suppress(OSError):  # removed meanwhile, or not readable: it is built again
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
    """Write a library whole or not at all, and remove what is old.

    Args:
        folder: The cache folder.
        key: Of everything that determines the library.
        content: The library.

    Returns:
        The file; None if there is no space, say: it is built again by the next process.
    """
    path = folder / _name(key, content)
    try:
        _write(path, content)
    except OSError:
        return None
    _remove_old(folder)
    return path


def _write(path: Path, content: bytes) -> None:
    """Write a file under another name first, so that nobody sees a part of it."""
    descriptor, written = tempfile.mkstemp(prefix=".assignment-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(written).replace(path)
    finally:
        Path(written).unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    """Remove kernels that were not loaded for long, and files that were never finished."""
    for pattern, seconds in (("assignment-*.so", _SECONDS_KEPT), (".assignment-*.part", _SECONDS_WRITTEN)):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > seconds:
                    path.unlink()


def _note_use(path: Path) -> None:
    """Set the time of a library, by which old ones are told, at most once a day."""
    if time.time() - path.stat().st_mtime > _SECONDS_A_DAY:
        os.utime(path)


def _stem(key: str) -> str:
    return f"assignment-{key}"


def _name(key: str, content: bytes) -> str:
    return f"{_stem(key)}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.so"
