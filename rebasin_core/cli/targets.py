"""The files that commands write: never over one that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import StorageError
from rebasin_core.tensors.files import require_writable
from rebasin_core.tensors.reading import exists, is_same_file

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
        StorageError: If the output cannot be written, is one of the inputs (by whatever name, links included), or
            exists.
    """
    require_writable(output)
    for given in inputs:
        if is_same_file(output, given):
            message = f"the output {output} is a file that is read ({given}), and would be lost; name another one"
            raise StorageError(message)
    if not force and exists(output):
        message = f"{output} exists; name another output, or give --force to replace it"
        raise StorageError(message)
