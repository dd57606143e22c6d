"""The best of the permutations that a search comes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.matchers.result import MatchResult
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.matchers.result import MatchOutcome


@final
class BestSoFar:
    """Keeps the permutation of the highest value, from the identity and where the search begins on.

    Args:
        problem: What is matched.
        value: What is maximised.
    """

    def __init__(self, problem: MatchProblem, value: Callable[[Permutation], float]) -> None:
        self._value = value
        self.permutation = Permutation.identity(problem.layout)
        self.trace = [value(self.permutation)]
        if problem.initial is not None:
            self.offer(problem.initial)

    def offer(self, permutation: Permutation) -> None:
        """Take a permutation if it is better than all before; the trace grows by one either way.

        Args:
            permutation: The permutation.
        """
        value = self._value(permutation)
        if value > self.trace[-1]:
            self.permutation = permutation
        self.trace.append(max(value, self.trace[-1]))

    def result(self, outcome: MatchOutcome, seconds: Mapping[str, float]) -> MatchResult:
        """Return what was found.

        Args:
            outcome: Why the search stopped.
            seconds: How long it took.

        Returns:
            The result.
        """
        return MatchResult(
            permutation=self.permutation,
            objective=self.trace[-1],
            identity_objective=self.trace[0],
            outcome=outcome,
            trace=tuple(self.trace),
            seconds=seconds,
        )
