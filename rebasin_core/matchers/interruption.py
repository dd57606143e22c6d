"""Long matches that are interrupted: stopped with an error, or with their best so far."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from rebasin_core.matchers.result import MatchOutcome

if TYPE_CHECKING:
    from collections.abc import Generator

    from rebasin_core.matchers.base import MatchProblem


@final
class Interruption:
    """Whether a block was interrupted."""

    def __init__(self) -> None:
        self.happened = False

    def outcome(self, otherwise: MatchOutcome) -> MatchOutcome:
        """Return why the search stopped.

        Args:
            otherwise: The outcome if it was not interrupted.

        Returns:
            The outcome.
        """
        return MatchOutcome.INTERRUPTED if self.happened else otherwise


@contextmanager
def interruptible(problem: MatchProblem) -> Generator[Interruption]:
    """Leave a block when the user interrupts it, if the problem asks for the best so far.

    Args:
        problem: What is matched.

    Yields:
        Whether it happened, to be asked afterwards.

    Raises:
        KeyboardInterrupt: If the problem does not ask for it.
    """
    state = Interruption()
    try:
        yield state
    except KeyboardInterrupt:
        if problem.on_interrupt == "raise":
            raise
        state.happened = True
