"""Local folders of unfinished work."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from rebasin_core.errors import StorageError
from rebasin_core.tensors.reading import reason, shown

if TYPE_CHECKING:
    from pathlib import Path


def local_scratch_times(folder: Path) -> dict[str, float]:
    """Return the subfolders of a folder, with the times of the last change of their files.

    Args:
        folder: The folder; it may not exist.

    Returns:
        Seconds since 1970 by name of the subfolder.

    Raises:
        StorageError: If the folder cannot be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        message = f"cannot read {shown(folder)}: {reason(error)}"
        raise StorageError(message) from error
    return {name: _last_change(folder / name) for name in names}


def clear_local_scratch(folder: Path, name: str) -> None:
    """Remove a subfolder, if it exists.

    Args:
        folder: The folder.
        name: Name of the subfolder.

    Raises:
        StorageError: If it cannot be removed.
    """
    try:
        shutil.rmtree(folder / name)
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"cannot delete {shown(folder / name)}: {reason(error)}. Check its permissions"
        raise StorageError(message) from error


def _last_change(folder: Path) -> float:
    found = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # removed since it was listed
            found = max(found, path.lstat().st_mtime)
    return found
