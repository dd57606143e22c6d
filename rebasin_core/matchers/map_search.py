"""Search over linear maps in addition to permutations: the option `symmetry`, and the descent in a common gauge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from tqdm import tqdm

from rebasin_core.assignment import AssignmentSolver, AutoAssignment
from rebasin_core.bilinear.maps.descent import MapDescent
from rebasin_core.bilinear.maps.gauge import balanced, centered
from rebasin_core.errors import NotClosedError
from rebasin_core.matchers.base import MatchOutcome, MatchResult
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.subgroups import restricted_to
from rebasin_core.symmetry.symmetry_element import SymmetryElement, recentered

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.linear import Symmetry

SymmetryOption: TypeAlias = Literal["permutation", "full"] | tuple[Kind, ...]
"""Group modulo which a matcher aligns: permutations, all maps, or permutations and the given kinds of maps."""

_FACTORS = (Kind.SIGN, Kind.POSITIVE, Kind.NONZERO)


def kinds_of(option: SymmetryOption) -> frozenset[Kind]:
    """Return the kinds of maps that an option selects.

    Args:
        option: The option `symmetry` of a matcher.

    Returns:
        The kinds; none for permutations only.
    """
    if isinstance(option, str):
        return frozenset(Kind if option == "full" else ())
    return frozenset(Kind(kind) for kind in option)


def admitted_symmetry(problem: MatchProblem, option: SymmetryOption, *posteriors: Posterior) -> Symmetry:
    """Return the linear symmetries over which a matcher searches.

    Args:
        problem: The matching problem.
        option: The option `symmetry` of the matcher.
        *posteriors: Posteriors that the maps transform.

    Returns:
        The symmetries of the option. With ``full``, signs and scales only if a posterior is not closed under the
        others.
    """
    if option != "full":
        return restricted_to(problem.symmetry, kinds_of(option))
    try:
        for posterior in posteriors:
            posterior.transform(SymmetryElement.random(problem.symmetry, generator=torch.Generator()))
    except NotClosedError:
        return restricted_to(problem.symmetry, _FACTORS)
    return problem.symmetry


def of_factors(symmetry: Symmetry, option: SymmetryOption, matcher: str) -> Symmetry:
    """Return the signs and scales of a symmetry, for matchers that compare standard deviations of entries.

    Standard deviations of mixed units, and of biases that flips shift, are not determined by those before.

    Args:
        symmetry: The symmetry.
        option: The option `symmetry` of the matcher.
        matcher: Name of the matcher.

    Returns:
        The symmetry without flips and maps that mix units.

    Raises:
        NotClosedError: If the option names kinds of other maps.
    """
    mixing = sorted({str(linear.kind) for linear in symmetry.linear if linear.kind not in _FACTORS})
    if mixing and option != "full":
        message = (
            f"expected signs and scales, since the matcher {matcher!r} compares the standard deviations of entries, "
            f'got {mixing}; use `symmetry="full"` for signs and scales, or the matcher `weight`'
        )
        raise NotClosedError(message)
    return restricted_to(symmetry, _FACTORS)


@final
@dataclass(frozen=True, slots=True)
class MapSearch:
    """Searches for the group element with the largest inner product of two networks in a common gauge.

    Attributes:
        problem: The matching problem.
        symmetry: The linear symmetries; only `between_gauges` accepts flips.
        solver: Solver of the assignment problems.
        max_sweeps: Maximum number of sweeps of a descent.
        tolerance: Smallest increase of the objective in one sweep, relative to the squared norm of the reference, for
            which a descent continues.
    """

    problem: MatchProblem
    symmetry: Symmetry
    solver: AssignmentSolver = field(default_factory=AutoAssignment)
    max_sweeps: int = 100
    tolerance: float = 1e-6

    def between_gauges(
        self, reference: Channels, candidate: Channels, permute: Callable[[Channels, Channels], MatchResult]
    ) -> MatchResult:
        """Transform both networks to centered coordinates and to the gauge of minimal norm, and search there.

        Args:
            reference: Channels of the reference, ``[C, *s]`` for every parameter of shape ``s``.
            candidate: Channels of the candidate.
            permute: Returns the result of a matcher over permutations alone, for channels in the gauge.

        Returns:
            The better of the descents from this result and from a greedy initialization, transformed back to the gauge
            of the reference. Its objective is that of the gauge.
        """
        start = perf_counter()
        search = replace(self, symmetry=self.symmetry.centered)
        reference, of_reference = balanced(search.symmetry, centered(self.symmetry, reference))
        candidate, of_candidate = balanced(search.symmetry, centered(self.symmetry, candidate))
        permuted = permute(reference, candidate)
        best = search.improved(reference, candidate, permuted)
        found = of_candidate.compose(best.group_element).compose(of_reference.inverse())
        element = recentered(found, self.symmetry)
        return replace(
            best,
            permutation=element.permutation,
            element=element,
            seconds={"total": perf_counter() - start, "permutations": permuted.seconds["total"]},
        )

    def improved(self, reference: Channels, candidate: Channels, permuted: MatchResult) -> MatchResult:
        """Continue the result of a matcher over permutations alone by descents over all groups.

        Args:
            reference: Channels of the reference, in the gauge.
            candidate: Channels of the candidate, in the gauge.
            permuted: The result over permutations alone.

        Returns:
            The better of the descents from this result and from a greedy initialization.
        """
        descent = MapDescent(self.symmetry, reference, candidate, solver=self.solver)
        identity_objective = descent.objective()
        none = [None] * len(self.symmetry.linear)
        best = self._descend(descent, SymmetryElement(self.symmetry, permuted.permutation, none))
        if best.outcome is not MatchOutcome.INTERRUPTED:
            other = self._descend(descent, None)
            best = other if other.objective > best.objective else best
        return replace(best, identity_objective=min(identity_objective, best.objective))

    def _descend(self, descent: MapDescent, initial: SymmetryElement | None) -> MatchResult:
        """Run one descent; greedily initialized without an initial element."""
        descent.start_at(initial)
        if initial is None:
            descent.initialize()
        trace = [descent.objective()]
        outcome = MatchOutcome.MAX_SWEEPS
        hidden = not self.problem.progress
        bar = tqdm(range(self.max_sweeps), desc="match", unit="sweep", leave=False, disable=hidden)
        with interruptible(self.problem) as interruption:
            for _ in bar:
                increase = descent.sweep(self.problem.generator)
                trace.append(max(trace[-1], descent.objective()))
                if increase < self.tolerance:
                    outcome = MatchOutcome.CONVERGED
                    break
        return MatchResult(
            permutation=descent.element.permutation,
            element=descent.element,
            objective=trace[-1],
            identity_objective=trace[0],
            outcome=interruption.outcome(outcome),
            trace=tuple(trace),
            seconds={},
        )
