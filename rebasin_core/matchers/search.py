"""What searches have in common: running to a result, keeping the best, stopping when interrupted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, final

from tqdm import tqdm

from rebasin_core.matchers.result import MatchOutcome, MatchResult
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
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


def descended(
    problem: MatchProblem,
    solver: CoordinateDescent,
    *,
    max_sweeps: int,
    start: float,
    identity_objective: float | None = None,
    seconds: Mapping[str, float] | None = None,
) -> MatchResult:
    """Sweep over the groups until none moves, and return the result.

    Args:
        problem: What is matched.
        solver: Coordinate descent at its beginning.
        max_sweeps: The most sweeps.
        start: When the matcher began (`time.perf_counter`).
        identity_objective: The objective without moving anything; that of the beginning if not given.
        seconds: How long other parts of the work took.

    Returns:
        The result.
    """
    trace = [solver.objective()]
    outcome = MatchOutcome.MAX_SWEEPS
    gained = solver.gained
    sweeps = solver.sweeps(problem.generator, max_sweeps)
    bar = tqdm(sweeps, desc="match", unit="sweep", total=max_sweeps, leave=False, disable=not problem.progress)
    with interruptible(problem) as interruption:
        for moved in bar:
            trace.append(trace[0] + solver.gained - gained)
            if not moved:
                outcome = MatchOutcome.CONVERGED
    # Where the objective is computed anew, rounding must not leave it below what came before.
    objective = max(solver.objective(), trace[0])
    bound = max(objective, solver.upper_bound())
    return MatchResult(
        permutation=Permutation(problem.layout, solver.indices),
        objective=objective,
        identity_objective=trace[0] if identity_objective is None else identity_objective,
        outcome=interruption.outcome(outcome),
        trace=(*(min(value, objective) for value in trace[:-1]), objective),
        seconds={"total": perf_counter() - start, **(seconds or {}), **solver.seconds},
        upper_bound=bound,
    )


def better(first: MatchResult, second: MatchResult) -> MatchResult:
    """Return the one of two results with the larger objective, with the time that both took.

    Args:
        first: A result.
        second: Another one, of the same problem.

    Returns:
        The better one; interrupted if either was.
    """
    best = second if second.objective > first.objective else first
    parts = first.seconds.keys() - {"total"}
    seconds = {"total": second.seconds["total"], **{p: first.seconds[p] + second.seconds[p] for p in sorted(parts)}}
    stopped = MatchOutcome.INTERRUPTED in {first.outcome, second.outcome}
    return replace(best, seconds=seconds, outcome=MatchOutcome.INTERRUPTED if stopped else best.outcome)
