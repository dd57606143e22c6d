"""Channel matchers that align modulo the whole symmetry group: permutations, signs, scales and linear maps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveFloat
from typing_extensions import override

from rebasin_core.matchers.channel import AbstractChannelMatcher
from rebasin_core.matchers.map_search import MapSearch, SymmetryOption, admitted_symmetry, kinds_of, of_factors

if TYPE_CHECKING:
    from rebasin_core.matchers.base import MatchProblem, MatchResult
    from rebasin_core.symmetry.kind import Kind
    from rebasin_core.symmetry.linear import Symmetry


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
        return kinds_of(self.symmetry)

    @property
    @override
    def uses_slices(self) -> bool:
        return self.symmetry == "permutation"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        if self.symmetry == "permutation":
            return self._match_permutations(problem)
        symmetry = admitted_symmetry(problem, self.symmetry, problem.candidate)
        return self._match_maps(problem, symmetry) if symmetry.linear else self._match_permutations(problem)

    def _match_maps(self, problem: MatchProblem, symmetry: Symmetry) -> MatchResult:
        reference, candidate = self._channels(problem.reference, problem.candidate)
        self._require_channels(problem, reference, "reference")
        self._require_channels(problem, candidate, "candidate")
        if any(len(tensor) > 1 for tensor in reference.values()):
            # Standard deviations of mixed units are not determined.
            symmetry = of_factors(symmetry, self.symmetry, self.name)
        search = MapSearch(problem, symmetry, self.assignment, self.max_sweeps, self.tolerance)
        return search.between_gauges(reference, candidate, partial(self._match_channels, problem))
