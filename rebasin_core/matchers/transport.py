"""Transport matching: units are carried onto units at the least cost, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import override

from rebasin_core.coupling.coupling import Coupling, consuming_axes, require_same_form
from rebasin_core.coupling.ground_cost import WeightCosts, response_costs
from rebasin_core.coupling.nested_groups import carried_cost, families_of, family_plans, nearest_permutations
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers.activation_statistics import ResponseProducts
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.channel import mean_channels, moment_channels
from rebasin_core.matchers.result import MatchOutcome
from rebasin_core.matchers.search import BestSoFar
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import require_finite
from rebasin_core.tensors.optimal_transport import PlanMethod, TransportSolver, squared_distance
from rebasin_core.tensors.precision import widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from rebasin_core.coupling.nested_groups import Families
    from rebasin_core.matchers.result import MatchResult
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout

GroundCost: TypeAlias = Literal["weights", "moments", "activations"]


@final
class TransportMatcher(Matcher):
    r"""Aligns units by optimal transport between them, one group after the other, from the data on.

    The cost of carrying unit $j$ of the candidate onto unit $i$ of the reference is, by `cost`: ``weights``, the
    squared distance of the means of the weights that make them; ``moments``, the squared 2-Wasserstein (Bures) distance
    of these weights as independent Gaussians, that of means and standard deviations; ``activations``, the mean squared
    distance of their responses to data. With weights, those of a layer are compared after the plan of the layer before
    has acted on the candidate.

    `match` rounds the plans to the nearest permutations; of these and the identity, what is nearer to the reference is
    returned. `couple` gives the plans themselves, also between networks of **different widths**, and applies them
    softly: the fusion of OTFusion is the mean of the reference and ``coupling.apply(candidate)``. Heads are coupled by
    what carrying their widths onto each other costs (`family_plans`).

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching by activations, without a model and data.

    References:
        S. Singh, M. Jaggi (2020), "Model fusion via optimal transport", NeurIPS, arXiv 1910.05653, algorithm 1 (which
        averages what units of a wider network take in; here it is shared out, so that functions are kept).

    Example:
        >>> from rebasin_core.specs import table_spec
        >>> from rebasin_core.posteriors import PointPosterior
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out.weight": torch.tensor([[1.0, 2.0]])}
        >>> wide = {"in": a["in"][[1, 1, 0, 0]], "out.weight": a["out.weight"][:, [1, 1, 0, 0]] / 2}
        >>> specs = [table_spec({"in": "hidden, -", "out.weight": "-, hidden"}, t) for t in (a, wide)]
        >>> coupling = TransportMatcher().couple(PointPosterior(a), PointPosterior(wide), *specs)
        >>> coupling.apply(wide)["out.weight"].tolist()
        [[1.0, 2.0]]
    """

    name: Literal["transport"] = "transport"

    cost: GroundCost = "weights"
    """The ground cost: ``weights``, ``moments`` or ``activations``, see above."""

    method: PlanMethod = "exact"
    """The transport problem: ``exact``, ``entropic``, ``unbalanced`` or ``partial``, as in `TransportSolver`."""

    regularization: PositiveFloat = 0.05
    """Strength of the entropic regularization, in units of the cost's standard deviation."""

    relaxation: PositiveFloat = 1.0
    """Weight of the divergence from the marginals for ``unbalanced``, in the same units."""

    mass: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the mass that ``partial`` transports."""

    num_samples: PositiveInt = 4
    """Number of posterior samples of each network for ``activations``; a single network is run once."""

    def couple(  # ruff: ignore[too-many-arguments] - both networks, and what is needed to run them
        self,
        reference: Posterior,
        candidate: Posterior,
        spec: PermutationSpec,
        candidate_spec: PermutationSpec | None = None,
        *,
        model: nn.Module | None = None,
        candidate_model: nn.Module | None = None,
        data: Iterable[tuple[Tensor, Tensor]] | None = None,
        generator: torch.Generator | None = None,
    ) -> Coupling:
        """Return the plans between two networks that may differ in the widths of their groups.

        Args:
            reference: Stays as it is.
            candidate: Is carried over.
            spec: The symmetries of the reference.
            candidate_spec: Those of the candidate, if its widths are others.
            model: The reference's network: tells which axes take in (without it, the second axis of every
                ``weight``), and is run for activations.
            candidate_model: The candidate's, if its widths are others.
            data: Batches ``(inputs, targets)``, for activations.
            generator: Source of drawn networks; a fixed seed if not given.

        Returns:
            The coupling.

        Raises:
            InvalidInputError: If the specifications differ in more than the sizes of groups, posteriors do not fit
                them, or something that is needed is missing.
        """
        other = spec if candidate_spec is None else candidate_spec
        require_same_form(spec.layout, other.layout)
        sides = ((reference, spec, "the reference"), (candidate, other, "the candidate"))
        for posterior, its_spec, what in sides:
            its_spec.layout.check({**posterior.mean, **posterior.buffers}, what)
        problem = MatchProblem(
            reference=reference,
            candidate=candidate.to(device=reference.device, dtype=reference.dtype),
            layout=spec.layout,
            model=model,
            data=data,
            generator=generator or torch.Generator().manual_seed(0),
            progress=False,
        )
        with torch.no_grad():
            return self._coupled(problem, other.layout, candidate_model or model)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        coupling, families = self._coupled(problem, problem.layout, problem.model), families_of(problem.layout)
        nearest = nearest_permutations(families, coupling.plans, coupling.costs)
        indices = {**Permutation.identity(problem.layout).indices, **{n: index.cpu() for n, index in nearest.items()}}
        best = BestSoFar(problem, lambda permutation: -self._distance(problem, families, coupling.costs, permutation))
        best.offer(Permutation(problem.layout, indices))
        return best.result(MatchOutcome.CONVERGED, {"total": perf_counter() - start})

    def _coupled(self, problem: MatchProblem, other: Layout, candidate_model: nn.Module | None) -> Coupling:
        layout = problem.layout
        families = families_of(layout)
        coupling = Coupling(layout, other, {}, {}, consuming_axes(layout, problem.model))
        if self.cost == "activations":
            coupling = self._by_activations(problem, coupling, candidate_model, families)
        else:
            coupling = self._by_weights(problem, coupling, families)
        missing = [n for n in families if n not in coupling.plans and layout.groups[n].size != other.groups[n].size]
        if missing:
            message = f"nothing tells how the units of {missing[:5]} correspond, whose numbers differ"
            raise InvalidInputError(message)
        return coupling

    def _by_weights(self, problem: MatchProblem, coupling: Coupling, families: Families) -> Coupling:
        """Return the coupling by weights, group by group, each after the plans of those before it."""
        channels = [self._channels(q) for q in (problem.reference, problem.candidate)]
        for side, what in zip(channels, ("the reference", "the candidate"), strict=True):
            require_finite(side, what)
        ground = WeightCosts(coupling, channels[0], channels[1], families)
        waiting = list(families)
        while waiting:
            group = max(waiting, key=lambda name: ground.share_known(name, coupling.plans))
            waiting.remove(group)
            coupling = self._with_plans(coupling, group, ground.costs(group, coupling.plans))
        return coupling

    def _with_plans(self, coupling: Coupling, group: str, costs: Mapping[str, Tensor]) -> Coupling:
        """Return the coupling with the plans of one more group, and of those within it."""
        if not costs:
            return coupling
        within = {name: cost for name, cost in costs.items() if name != group}
        plan, inner, cost = family_plans(self._solver(), costs.get(group), within)
        plans, known = {**coupling.plans, group: plan, **inner}, {**coupling.costs, group: cost, **within}
        return replace(coupling, plans=plans, costs=known)

    def _solver(self) -> TransportSolver:
        return TransportSolver(
            method=self.method, regularization=self.regularization, relaxation=self.relaxation, mass=self.mass
        )

    def _channels(self, posterior: Posterior) -> dict[str, Tensor]:
        return widened(mean_channels(posterior) if self.cost == "weights" else moment_channels(posterior))

    def _by_activations(
        self, problem: MatchProblem, coupling: Coupling, candidate_model: nn.Module | None, families: Families
    ) -> Coupling:
        products = ResponseProducts.of(problem, candidate_model, self.num_samples)
        costs: dict[str, dict[str, Tensor]] = {}
        for name, (number, distances) in products.distances().items():
            axes = coupling.layout.axes[name][number], coupling.candidate_layout.axes[name][number]
            for group, unit, part in response_costs(families, axes, distances):
                known = costs.setdefault(group, {})
                known[unit] = known[unit] + part if unit in known else part
        for group, found in costs.items():
            coupling = self._with_plans(coupling, group, found)
        return coupling

    def _distance(
        self, problem: MatchProblem, families: Families, costs: Mapping[str, Tensor], permutation: Permutation
    ) -> float:
        """Return what is to be small: the distance of weights (and spreads), or the sum of what is carried."""
        if self.cost == "activations":
            return carried_cost(families, costs, permutation.indices)
        moved = permutation.apply(problem.candidate)
        total = squared_distance(problem.reference.mean, moved.mean)
        spreads: Mapping[str, Tensor] = problem.reference.stddev if self.cost == "moments" else {}
        return total + squared_distance(spreads, moved.stddev)
