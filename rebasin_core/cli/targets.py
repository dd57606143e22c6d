"""The files that commands write: never over one that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def require_free(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse to write over a file that is read, and over any other file unless told to; before any work is done.

    Args:
        output: The file to be written.
        inputs: The files that the command reads.
        force: Whether a file that is not an input may be replaced.

    Raises:
        StorageError: If the output is one of the inputs (by whatever name, links included), or exists.
    """
    for given in inputs:
        if _is_same(output, given):
            message = f"the output {output} is the input {given}, which would be lost; choose another output file"
            raise StorageError(message)
    if not force and (output.exists() or output.is_symlink()):
        message = f"{output} exists; choose another output file, or give --force to replace it"
        raise StorageError(message)


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):  # one of them does not exist, or cannot be a file: said where it is read or written
        return False
