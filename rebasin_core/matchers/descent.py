"""Coordinate descent as a result: from a beginning to the end, with its trace."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from tqdm import tqdm

from rebasin_core.matchers.interruption import interruptible
from rebasin_core.matchers.result import MatchOutcome, MatchResult
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.matchers.coordinate_descent import CoordinateDescent


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
    trace, outcome = [solver.objective()], MatchOutcome.MAX_SWEEPS
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
