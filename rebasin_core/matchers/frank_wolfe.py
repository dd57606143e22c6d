"""Frank-Wolfe matching of all groups simultaneously, over doubly stochastic matrices."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.assignment import AutoAssignment
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.relaxation import Relaxation
from rebasin_core.bilinear.terms import joined, terms_of
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.channel import mean_channels, moment_channels
from rebasin_core.matchers.map_search import MapSearch, SymmetryOption, admitted_symmetry, kinds_of, of_factors
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.precision import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.kind import Kind

ChannelNames: TypeAlias = Literal["mean", "moments"]


def _current(channels: object) -> object:
    """Return the current name of channels; accepts the name that earlier run files used."""
    return "moments" if channels == "mean and standard deviation" else channels


# Maximum number of sweeps of coordinate descent after rounding.
_MAX_SWEEPS = 100


@final
class FrankWolfeMatcher(Matcher):
    r"""Maximizes the sum of bilinear assignment problems over doubly stochastic matrices, then rounds to permutations.

    $$ \max_{X_1, \dots, X_G \,\in\, \mathcal B} \; \sum_l \langle \phi_l, X_l \psi_l X_{l-1}^\top \rangle $$

    Each step solves one linear assignment problem per group for the gradient, simultaneously for all groups, then takes
    an exact line search: along the segment to these vertices the objective is a polynomial in the step size. The last
    iterate is rounded to permutations by one more assignment per group, and coordinate descent starts from them. Nested
    groups are optimized only by that descent.

    With the option ``symmetry``, both networks are first transformed to the gauge of minimal norm, and the permutations
    found there are continued by coordinate descent over permutations, signs and orthogonal maps, as for the matcher
    `weight`.

    Raises:
        ConfigError: If an option is invalid.

    References:
        M. Frank, P. Wolfe (1956), "An algorithm for quadratic programming", Naval Research Logistics 3; D. Crisostomi
        et al. (2024), "C2M3: cycle-consistent multi-model merging", NeurIPS, arXiv 2405.17897, section 3.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> from rebasin_core.specs import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0], [3.0]]), "out": torch.tensor([[1.0, 2.0, 3.0]])}
        >>> b = {"in": a["in"][[2, 0, 1]], "out": a["out"][:, [2, 0, 1]]}
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a)
        >>> FrankWolfeMatcher().match(PointPosterior(a), PointPosterior(b), spec).apply(b)["out"].tolist()
        [[1.0, 2.0, 3.0]]
    """

    name: Literal["frank_wolfe"] = "frank_wolfe"

    channels: Annotated[ChannelNames, BeforeValidator(_current)] = "mean"
    """Channels that are compared: ``mean``, or ``moments`` (mean and standard deviation)."""

    max_steps: NonNegativeInt = 100
    """Maximum number of Frank-Wolfe steps."""

    start: Literal["identity", "uniform"] = "identity"
    """Initialization if no initial permutation is passed: ``identity``, or ``uniform`` (all entries 1/n)."""

    tolerance: NonNegativeFloat = 1e-5
    """The search stops if a step increases the objective by at most this share of its absolute value."""

    symmetry: SymmetryOption = "permutation"
    """The group: ``permutation``; ``full`` for all maps that the specification admits and under which the posterior is
    closed; or a tuple of kinds (see `rebasin_core.symmetry.Kind`), in addition to permutations."""

    @property
    @override
    def uses_task(self) -> bool:
        return False

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return kinds_of(self.symmetry)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        reference = self._channels_of(problem.reference)
        candidate = self._channels_of(problem.candidate)
        if self.symmetry == "permutation":
            return self._match_channels(problem, reference, candidate)
        symmetry = admitted_symmetry(problem, self.symmetry, problem.candidate)
        if self.channels == "moments":  # standard deviations of mixed units are not determined
            symmetry = of_factors(symmetry, self.symmetry, self.name)
        if not symmetry.linear:
            return self._match_channels(problem, reference, candidate)
        search = MapSearch(problem, symmetry)
        return search.between_gauges(reference, candidate, partial(self._match_channels, problem))

    def _match_channels(self, problem: MatchProblem, reference: Channels, candidate: Channels) -> MatchResult:
        """Return the permutation between two sets of channels."""
        start = perf_counter()
        identity_objective = CoordinateDescent(problem.layout, reference, candidate).objective()
        ascent = self._ascent(problem, reference, candidate)
        outcome = MatchOutcome.BUDGET
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.max_steps), desc="frank-wolfe", leave=False, disable=not problem.progress):
                increase = ascent.step()
                if increase <= self.tolerance * abs(ascent.value):
                    outcome = MatchOutcome.CONVERGED
                    break
        best = _descended(problem, reference, candidate, _rounded(problem, ascent))
        if best.objective() < identity_objective:  # a bad local optimum: descend from the identity instead
            best = _descended(problem, reference, candidate, None)
        return MatchResult(
            permutation=Permutation(problem.layout, best.indices),
            objective=best.objective(),
            identity_objective=identity_objective,
            outcome=interruption.outcome(outcome),
            trace=(identity_objective, best.objective()),
            seconds={"total": perf_counter() - start, "assignment": ascent.seconds},
        )

    def _ascent(self, problem: MatchProblem, reference: Channels, candidate: Channels) -> Relaxation:
        """Return the relaxed problem, at its start."""
        layout = problem.layout
        permuted = layout.stacked(candidate if problem.initial is None else problem.initial.apply(candidate))
        terms = [
            term
            for name, t in layout.stacked(reference).items()
            for term in terms_of(layout.axes[name], t, permuted[name])
        ]
        groups = [name for name, group in layout.groups.items() if group.within is None and group.size > 1]
        uniform = self.start == "uniform" and problem.initial is None
        return Relaxation(layout, joined(terms), groups, AutoAssignment(), uniform=uniform)

    def _channels_of(self, posterior: Posterior) -> Channels:
        return widened(mean_channels(posterior) if self.channels == "mean" else moment_channels(posterior))


def _descended(
    problem: MatchProblem,
    reference: Mapping[str, Tensor],
    candidate: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
) -> CoordinateDescent:
    """Return coordinate descent after its last sweep."""
    solver = CoordinateDescent(problem.layout, dict(reference), dict(candidate), initial=initial)
    solver.run(problem.generator, _MAX_SWEEPS)
    return solver


def _rounded(problem: MatchProblem, ascent: Relaxation) -> Mapping[str, Tensor]:
    """Return the permutations nearest to the matrices, composed with the initial permutation."""
    nearest = dict(Permutation.identity(problem.layout).indices)
    nearest |= {name: index.cpu() for name, index in ascent.rounded().items()}
    initial = (problem.initial or Permutation.identity(problem.layout)).to("cpu")
    return initial.compose(Permutation(problem.layout, nearest)).indices
