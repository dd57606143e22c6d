"""Interruption of a search, and the best permutation that it has found."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from rebasin_core.matchers.base import MatchOutcome, MatchResult
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.permutation import GroupElement


@final
class Interruption:
    """Whether a search was interrupted."""

    def __init__(self) -> None:
        self.happened = False

    def outcome(self, otherwise: MatchOutcome) -> MatchOutcome:
        """Return the outcome of the search.

        Args:
            otherwise: The outcome if the search was not interrupted.

        Returns:
            ``INTERRUPTED``, or the given outcome.
        """
        return MatchOutcome.INTERRUPTED if self.happened else otherwise


@contextmanager
def interruptible(problem: MatchProblem) -> Generator[Interruption]:
    """Leave a block on Ctrl-C without an error, if the problem has ``on_interrupt="return"``.

    Args:
        problem: The matching problem.

    Yields:
        The state; after the block, its ``happened`` is True if the block was interrupted.

    Raises:
        KeyboardInterrupt: If the problem has ``on_interrupt="raise"``.
    """
    state = Interruption()
    try:
        yield state
    except KeyboardInterrupt:
        if problem.on_interrupt == "raise":
            raise
        state.happened = True


@final
class BestSoFar:
    """The best group element seen during a search; at first the identity, or the initial permutation if that is better.

    Args:
        problem: The matching problem.
        value: The objective, which is maximized.
    """

    def __init__(self, problem: MatchProblem, value: Callable[[GroupElement], float]) -> None:
        self._value = value
        self.element: GroupElement = Permutation.identity(problem.layout)
        self.trace = [value(self.element)]
        if problem.initial is not None:
            self.update(problem.initial)

    @property
    def permutation(self) -> Permutation:
        """The permutation of the best element."""
        return self.element.permutation

    def update(self, element: GroupElement) -> None:
        """Keep a group element if its objective is larger than all before, and extend the trace.

        Args:
            element: A permutation or another group element.
        """
        value = self._value(element)
        if value > self.trace[-1]:
            self.element = element
        self.trace.append(max(value, self.trace[-1]))

    def result(self, outcome: MatchOutcome, seconds: Mapping[str, float]) -> MatchResult:
        """Return the result of the search.

        Args:
            outcome: Why the search stopped.
            seconds: Run time in seconds, by part.

        Returns:
            The result.
        """
        return MatchResult(
            permutation=self.permutation,
            element=self.element if isinstance(self.element, SymmetryElement) else None,
            objective=self.trace[-1],
            identity_objective=self.trace[0],
            outcome=outcome,
            trace=tuple(self.trace),
            seconds=seconds,
        )
