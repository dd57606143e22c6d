"""Parts that search algorithms share: interruption, the best permutation so far, coordinate descent to a result."""

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
    """Leave a block on Ctrl-C without an error, if the problem asks for the best result so far.

    Args:
        problem: The matching problem.

    Yields:
        The state, which knows after the block whether it was interrupted.

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
    """The best permutation seen during a search; at first the identity, or the initial permutation if that is better.

    Args:
        problem: The matching problem.
        value: The objective, which is maximized.
    """

    def __init__(self, problem: MatchProblem, value: Callable[[Permutation], float]) -> None:
        self._value = value
        self.permutation = Permutation.identity(problem.layout)
        self.trace = [value(self.permutation)]
        if problem.initial is not None:
            self.offer(problem.initial)

    def offer(self, permutation: Permutation) -> None:
        """Keep a permutation if it is better than all before, and extend the trace.

        Args:
            permutation: The permutation.
        """
        value = self._value(permutation)
        if value > self.trace[-1]:
            self.permutation = permutation
        self.trace.append(max(value, self.trace[-1]))

    def result(self, outcome: MatchOutcome, seconds: Mapping[str, float]) -> MatchResult:
        """Return the result of the search.

        Args:
            outcome: Why the search stopped.
            seconds: Its run time, by part.

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


def run_descent(
    problem: MatchProblem,
    solver: CoordinateDescent,
    *,
    max_sweeps: int,
    start: float,
    identity_objective: float | None = None,
    seconds: Mapping[str, float] | None = None,
) -> MatchResult:
    """Sweep over the groups until no index changes, and return the result.

    Args:
        problem: The matching problem.
        solver: Coordinate descent at its starting point.
        max_sweeps: Maximum number of sweeps.
        start: The `time.perf_counter` when the matcher started.
        identity_objective: The objective at the identity; that at the starting point if None.
        seconds: Run time of other parts of the matcher.

    Returns:
        The result.
    """
    trace = [solver.objective()]
    outcome = MatchOutcome.MAX_SWEEPS
    gained = solver.gained
    sweeps = solver.sweeps(problem.generator, max_sweeps)
    bar = tqdm(sweeps, desc="match", unit="sweep", total=max_sweeps, leave=False, disable=not problem.progress)
    with interruptible(problem) as interruption:
        for changed in bar:
            trace.append(trace[0] + solver.gained - gained)
            if not changed:
                outcome = MatchOutcome.CONVERGED
    # A recomputed objective may be lower by rounding only.
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


def best_result(first: MatchResult, second: MatchResult) -> MatchResult:
    """Return the result with the larger objective, with the total run time of both.

    Args:
        first: A result.
        second: Another result of the same problem.

    Returns:
        The better result, marked as interrupted if either was.
    """
    best = second if second.objective > first.objective else first
    parts = first.seconds.keys() - {"total"}
    seconds = {"total": second.seconds["total"], **{p: first.seconds[p] + second.seconds[p] for p in sorted(parts)}}
    stopped = MatchOutcome.INTERRUPTED in {first.outcome, second.outcome}
    return replace(best, seconds=seconds, outcome=MatchOutcome.INTERRUPTED if stopped else best.outcome)
