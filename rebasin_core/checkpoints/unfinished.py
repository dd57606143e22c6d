"""Folders of unfinished outputs: locked while they are written, and removed after a run was killed."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

_ATTEMPTS = 100
_DIGEST_LENGTH = 12


@contextmanager
def unfinished_folder(target: Path) -> Generator[Path]:
    """Provide an empty folder next to an output, for its unfinished content.

    Its name depends on that of the output, and the process holds a lock on it. Folders of killed runs for the same
    output have no lock, and are removed. Those of other runs that are active are not changed.

    Args:
        target: The output.

    Yields:
        The folder; removed afterwards, unless it was renamed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for folder in _folders_of(target):
        _remove_if_unlocked(folder)
    folder, handle = _locked_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _prefix(target: Path) -> str:
    """Return the start of the names of unfinished folders of an output; its own name may be too long for that."""
    return f".rebasin-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:_DIGEST_LENGTH]}_"


def _folders_of(target: Path) -> Iterator[Path]:
    prefix = _prefix(target)
    for folder in list(target.parent.iterdir()):
        if folder.name.startswith(prefix) and folder.name.endswith(".part") and folder.is_dir():
            yield folder


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """Create a folder and lock it; return it with the handle that holds the lock, if the system has locks."""
    for _ in range(_ATTEMPTS):
        # Not `tempfile.mkdtemp`, whose folders only their owner can read.
        folder = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.part")
        folder.mkdir()
        handle = _lock(folder)
        # Another run may have removed it before it was locked.
        if handle is not None and not _is_open(folder, handle):
            os.close(handle)
            continue
        return folder, handle
    message = f"another process removes the folders {_prefix(target)}*.part"
    raise OSError(message)


def _remove_if_unlocked(folder: Path) -> None:
    handle = _lock(folder)
    if handle is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _is_open(folder: Path, handle: int) -> bool:
    """Return whether a folder exists and is the one that a handle refers to."""
    with suppress(OSError):
        return os.path.samestat(folder.stat(), os.fstat(handle))
    return False


def _lock(folder: Path) -> int | None:
    """Lock a folder without waiting.

    Returns:
        The handle that holds the lock until it is closed; None if another process holds it, or there are no locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl  # ruff: ignore[import-outside-top-level] - does not exist on Windows

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
