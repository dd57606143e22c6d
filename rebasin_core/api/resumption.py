"""Matches that, when interrupted, leave their best so far in a file, and go on from it."""

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
    """A matcher's `match`, but for where to begin and what to do when interrupted."""

    def __call__(self, *, initial: Permutation | None, on_interrupt: OnInterrupt) -> MatchResult:
        """Return what is found."""


def resumed(
    search: Search,
    layout: Layout,
    checkpoint: Path | str,
    *,
    problem: str,
    initial: Permutation | None = None,
    on_interrupt: OnInterrupt = "raise",
) -> MatchResult:
    """Return what a search finds, begun where an interrupted one ended.

    Args:
        search: Matches.
        layout: Of the permutations.
        checkpoint: Where an interrupted search leaves its best so far (safetensors, atomically); read if it is there,
            removed when the search ends by itself.
        problem: A digest of what is matched, and how; a checkpoint of something else is refused.
        initial: Where to begin without a checkpoint.
        on_interrupt: What the caller gets when interrupted: ``raise`` or ``return``, the file being written either way.

    Returns:
        The result.

    Raises:
        KeyboardInterrupt: If the search was interrupted, unless ``on_interrupt`` is ``return``.
        FileFormatError: If the checkpoint is damaged, or of another specification or problem.
        StorageError: If it cannot be written.
    """
    kept = Path(checkpoint)
    require_writable(kept)
    result = search(initial=_kept(kept, layout, problem) if exists(kept) else initial, on_interrupt="return")
    if result.outcome is not MatchOutcome.INTERRUPTED:
        kept.unlink(missing_ok=True)
        return result
    result.permutation.save(kept, meta={_PROBLEM: problem})
    if on_interrupt == "raise":
        raise KeyboardInterrupt
    return result


def _kept(path: Path, layout: Layout, problem: str) -> Permutation:
    """Return the permutation in a checkpoint."""
    try:
        found = Permutation.load(path, layout)
        _, document = read_tensors(path)
    except FileFormatError as error:
        message = f"{error}. An interrupted match should be in this file: delete it to begin the match again"
        raise FileFormatError(message) from error
    # A permutation that was saved by itself does not say where it comes from, and is a place to begin like any other.
    if document.get(_PROBLEM, problem) != problem:
        message = (
            f"{path} was left by an interrupted match of other networks, or with another matcher: name another file, "
            "or delete it to begin this match"
        )
        raise FileFormatError(message)
    return found
