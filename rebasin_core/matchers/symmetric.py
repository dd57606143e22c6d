"""Channel matchers that align modulo the whole symmetry group: permutations, signs, scales and linear maps."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from pydantic import PositiveFloat
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.bilinear.maps.descent import MapDescent
from rebasin_core.bilinear.maps.gauge import balanced
from rebasin_core.errors import NotClosedError
from rebasin_core.matchers.base import MatchOutcome, MatchResult
from rebasin_core.matchers.channel import AbstractChannelMatcher
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.subgroups import restricted_to
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.linear import Symmetry

SymmetryOption: TypeAlias = "Literal['permutation', 'full'] | tuple[Kind, ...]"
"""Group modulo which a matcher aligns: permutations, all maps, or permutations and the given kinds of maps."""

_FACTORS = (Kind.SIGN, Kind.POSITIVE, Kind.NONZERO)


class AbstractSymmetryMatcher(AbstractChannelMatcher):
    r"""A channel matcher that can align modulo all linear symmetries of the specification.

    With ``symmetry="permutation"`` it is the channel matcher. Otherwise both networks are transformed to the gauge of
    minimal norm (see `rebasin_core.bilinear.maps.gauge`), in which scales and invertible maps are fixed up to signs and
    orthogonal maps. There the inner product of the channels is maximized over permutations, signs and orthogonal maps:
    by the channel matcher over permutations alone, continued by coordinate descent over all groups, and by a second
    descent that first optimizes each group by the weights it shares with groups already optimized. The better result
    is returned, transformed back to the gauge of the reference. Its objective, that of the gauge, is at least that of
    the best permutation found.

    Raises:
        ConfigError: If an option is invalid.

    References:
        A. Theus et al. (2025), "Generalized linear mode connectivity for transformers", arXiv 2506.22712; B. Zhang et
        al. (2025), "Beyond the permutation symmetry of transformers: the role of rotation for model fusion", ICML,
        arXiv 2502.00264.
    """

    symmetry: SymmetryOption = "permutation"
    """The group: ``permutation``; ``full`` for all maps that the specification admits and under which the posterior is
    closed; or a tuple of kinds (see `rebasin_core.symmetry.Kind`), in addition to permutations. Maps of normalized
    units need folded networks (see `rebasin_core.fold`)."""

    tolerance: PositiveFloat = 1e-6
    """Smallest increase of the objective in one sweep, relative to the squared norm of the reference, for which a
    descent over linear maps continues."""

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        if isinstance(self.symmetry, str):
            return frozenset(Kind if self.symmetry == "full" else ())
        return frozenset(self.symmetry)

    @property
    @override
    def uses_slices(self) -> bool:
        return self.symmetry == "permutation"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        symmetry = None if self.symmetry == "permutation" else self._admitted(problem)
        if symmetry is None or not symmetry.linear:
            return self._match_permutations(problem)
        return self._match_maps(problem, symmetry)

    def _admitted(self, problem: MatchProblem) -> Symmetry:
        """Return the linear symmetries of the option under which the candidate is closed."""
        if self.symmetry != "full":
            return restricted_to(problem.symmetry, tuple(Kind(kind) for kind in self.symmetry))
        try:
            problem.candidate.transform(SymmetryElement.random(problem.symmetry, generator=torch.Generator()))
        except NotClosedError:
            return restricted_to(problem.symmetry, _FACTORS)
        return problem.symmetry

    def _match_maps(self, problem: MatchProblem, symmetry: Symmetry) -> MatchResult:
        start = perf_counter()
        given = self._channels(problem.reference, problem.candidate)
        for channels, role in zip(given, ("reference", "candidate"), strict=True):
            self._require_channels(problem, channels, role)
        if any(
            len(tensor) > 1 for tensor in given[0].values()
        ):  # standard deviations of mixed units are not determined
            symmetry = self._of_factors(symmetry)
        reference, of_reference = balanced(symmetry, given[0])
        candidate, of_candidate = balanced(symmetry, given[1])
        descent = MapDescent(symmetry, reference, candidate, solver=self.assignment)
        identity_objective = descent.objective()
        permuted = self._match_channels(problem, reference, candidate)
        none = [None] * len(symmetry.linear)
        best = self._descend(problem, descent, SymmetryElement(symmetry, permuted.permutation, none))
        if best.outcome is not MatchOutcome.INTERRUPTED:
            other = self._descend(problem, descent, None)
            best = other if other.objective > best.objective else best
        element = of_candidate.compose(best.element or best.permutation).compose(of_reference.inverse())
        return replace(
            best,
            permutation=element.permutation,
            element=element,
            identity_objective=min(identity_objective, best.objective),
            seconds={"total": perf_counter() - start, "permutations": permuted.seconds["total"]},
        )

    def _of_factors(self, symmetry: Symmetry) -> Symmetry:
        """Return the signs and scales of a symmetry."""
        mixing = sorted({str(linear.kind) for linear in symmetry.linear if not linear.kind.is_factor})
        if mixing and self.symmetry != "full":
            message = (
                f"expected kinds of factors, since the matcher {self.name!r} compares the standard deviations of "
                f'entries, got {mixing}; use `symmetry="full"` for signs and scales, or the matcher `weight`'
            )
            raise NotClosedError(message)
        return restricted_to(symmetry, _FACTORS)

    def _descend(self, problem: MatchProblem, descent: MapDescent, initial: SymmetryElement | None) -> MatchResult:
        """Run one descent; greedily initialized without an initial element."""
        descent.start_at(initial)
        if initial is None:
            descent.initialize()
        trace = [descent.objective()]
        outcome = MatchOutcome.MAX_SWEEPS
        bar = tqdm(range(self.max_sweeps), desc="match", unit="sweep", leave=False, disable=not problem.progress)
        with interruptible(problem) as interruption:
            for _ in bar:
                increase = descent.sweep(problem.generator)
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
