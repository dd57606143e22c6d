"""Validation of output files: a command never overwrites its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import StorageError
from rebasin_core.tensors.files import require_writable
from rebasin_core.tensors.reading import exists, is_same_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def require_free(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Raise if an output file cannot be written, is an input, or exists and must not be replaced.

    Args:
        output: The file to be written.
        inputs: The files that the command reads.
        force: Whether an existing file that is not an input may be replaced.

    Raises:
        StorageError: If the output cannot be written, is one of the inputs (also through a link), or exists and
            ``force`` is false.
    """
    require_writable(output)
    for given in inputs:
        if is_same_file(output, given):
            message = f"the output {output} is also an input ({given}); choose another output"
            raise StorageError(message)
    if not force and exists(output):
        message = f"{output} exists; choose another output, or give --force to replace it"
        raise StorageError(message)
