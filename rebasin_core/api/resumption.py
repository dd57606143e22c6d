"""Interruptible matching: on Ctrl-C, save the best permutation to a file, and resume from that file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rebasin_core.errors import FileFormatError
from rebasin_core.matchers.base import MatchOutcome
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.files import read_tensors, require_writable
from rebasin_core.tensors.reading import exists

if TYPE_CHECKING:
    from rebasin_core.matchers.base import MatchResult, OnInterrupt
    from rebasin_core.symmetry.layout import Layout


_PROBLEM = "problem"


class Search(Protocol):
    """`Matcher.match` with all arguments bound except ``initial`` and ``on_interrupt``."""

    def __call__(self, *, initial: Permutation | None, on_interrupt: OnInterrupt) -> MatchResult:
        """Run the search and return its result."""


def search_with_checkpoint(
    search: Search,
    layout: Layout,
    checkpoint: Path | str,
    *,
    problem: str,
    initial: Permutation | None = None,
    on_interrupt: OnInterrupt = "raise",
) -> MatchResult:
    """Run a search that resumes from a checkpoint, and writes one if it is interrupted.

    Args:
        search: The search to run.
        layout: Layout of the permutations.
        checkpoint: Safetensors file for the best permutation. If the file exists, the search resumes from it. It is
            written atomically if the search is interrupted, and deleted when the search completes.
        problem: Digest of the matcher and the networks; a checkpoint with another digest raises an error.
        initial: Initial permutation if there is no checkpoint.
        on_interrupt: ``raise`` KeyboardInterrupt or ``return`` the best result so far, after writing the checkpoint.

    Returns:
        The result.

    Raises:
        KeyboardInterrupt: If the search was interrupted and ``on_interrupt`` is ``raise``.
        FileFormatError: If the checkpoint is damaged, or belongs to another specification or problem.
        StorageError: If the checkpoint cannot be written.
    """
    path = Path(checkpoint)
    require_writable(path)
    result = search(initial=_read(path, layout, problem) if exists(path) else initial, on_interrupt="return")
    if result.outcome is not MatchOutcome.INTERRUPTED:
        path.unlink(missing_ok=True)
        return result
    result.permutation.save(path, meta={_PROBLEM: problem})
    if on_interrupt == "raise":
        raise KeyboardInterrupt
    return result


def _read(path: Path, layout: Layout, problem: str) -> Permutation:
    """Return the permutation in a checkpoint."""
    try:
        permutation = Permutation.load(path, layout)
        _, document = read_tensors(path)
    except FileFormatError as error:
        message = f"{error}. Expected the checkpoint of an interrupted match; delete the file to restart the match"
        raise FileFormatError(message) from error
    # A file written by `Permutation.save` has no digest. It is accepted as an initial permutation.
    if document.get(_PROBLEM, problem) != problem:
        message = (
            f"{path} is the checkpoint of an interrupted match of other networks or with another matcher; use another "
            "file, or delete it to restart"
        )
        raise FileFormatError(message)
    return permutation
