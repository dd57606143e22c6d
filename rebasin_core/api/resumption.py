"""Matches that, when interrupted, leave their best so far in a file, and go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rebasin_core.matchers.base import MatchOutcome
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from rebasin_core.matchers.base import MatchResult, OnInterrupt
    from rebasin_core.symmetry.layout import Layout


class Search(Protocol):
    """A matcher's `match`, but for where to begin and what to do when interrupted."""

    def __call__(self, *, initial: Permutation | None, on_interrupt: OnInterrupt) -> MatchResult:
        """Return what is found."""


def resumed(
    search: Search,
    layout: Layout,
    checkpoint: Path | str,
    *,
    initial: Permutation | None = None,
    on_interrupt: OnInterrupt = "raise",
) -> MatchResult:
    """Return what a search finds, begun where an interrupted one ended.

    Args:
        search: Matches.
        layout: Of the permutations.
        checkpoint: Where an interrupted search leaves its best so far (safetensors, atomically); read if it is there,
            removed when the search ends by itself.
        initial: Where to begin without a checkpoint.
        on_interrupt: What the caller gets when interrupted: ``raise`` or ``return``, the file being written either way.

    Returns:
        The result.

    Raises:
        KeyboardInterrupt: If the search was interrupted, unless ``on_interrupt`` is ``return``.
        FileFormatError: If the checkpoint is damaged, or of another specification.
        StorageError: If it cannot be written.
    """
    kept = Path(checkpoint)
    result = search(initial=Permutation.load(kept, layout) if kept.exists() else initial, on_interrupt="return")
    if result.outcome is not MatchOutcome.INTERRUPTED:
        kept.unlink(missing_ok=True)
        return result
    result.permutation.save(kept)
    if on_interrupt == "raise":
        raise KeyboardInterrupt
    return result
