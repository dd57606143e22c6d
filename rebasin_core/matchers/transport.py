"""Transport matching: units are carried onto units at the least cost, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import override

from rebasin_core.coupling.coupling import Coupling, conventional_input_axes, require_direction, require_same_form
from rebasin_core.coupling.ground_cost import WeightCosts, activation_costs
from rebasin_core.coupling.nested_groups import carried_cost, families_of, family_plans, nearest_permutations
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.matchers.activation_statistics import CrossMoments
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem
from rebasin_core.matchers.channel import mean_channels, moment_channels
from rebasin_core.matchers.search import BestSoFar
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import require_finite
from rebasin_core.tensors.optimal_transport import PlanMethod, TransportSolver, squared_distance
from rebasin_core.tensors.precision import widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from rebasin_core.coupling.nested_groups import Families
    from rebasin_core.evaluation.reading import ModelReading
    from rebasin_core.matchers.base import MatchResult
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import ExampleInputs, PermutationSpec
    from rebasin_core.symmetry.layout import Layout

GroundCost: TypeAlias = Literal["weights", "moments", "activations"]

# So many examples show how a network uses its tensors.
_TRIAL_ROWS = 2


@final
class TransportMatcher(Matcher):
    r"""Aligns units by optimal transport between them, one group after the other, starting at the inputs.

    The cost of carrying unit $j$ of the candidate onto unit $i$ of the reference is, by `cost`: ``weights``, the
    squared distance of the means of the weights that compute them; ``moments``, the squared 2-Wasserstein (Bures)
    distance of these weights as independent Gaussians, that of means and standard deviations; ``activations``, the mean
    squared distance of their activations on data. With weights, those of a layer are compared after the plan of the
    layer before has acted on the candidate.

    `match` rounds the plans to the nearest permutations; of these and the identity, the one that is nearer to the
    reference is returned. `couple` returns the plans themselves, also between networks of **different widths**, and
    applies them softly: the fusion of OTFusion is the mean of the reference and ``coupling.apply(candidate)``. Heads
    are coupled by the cost of carrying their widths onto each other (`family_plans`).

    Which weights compute the units of a group, and which read them, is seen by running the network once. Without a
    network and data, `match` takes weights to be stored as ``[outputs, inputs, ...]``: this only decides which weights
    are compared, and every permutation preserves the function. `couple` raises, unless both directions are the same:
    between equal widths, with the same mass on every unit.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching by activations, without a model and data.

    References:
        S. Singh, M. Jaggi (2020), "Model fusion via optimal transport", NeurIPS, arXiv 1910.05653, algorithm 1 (which
        averages what units of a wider network take in; here it is shared out, so that functions are kept).

    Examples:
        >>> from torch import nn
        >>> from rebasin_core.specs import table_spec
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> a = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.tensor([[1.0, 2.0]])}
        >>> wide = {"0.weight": a["0.weight"][[1, 1, 0, 0]], "1.weight": a["1.weight"][:, [1, 1, 0, 0]] / 2}
        >>> specs = [table_spec({"0.weight": "hidden, -", "1.weight": "-, hidden"}, t) for t in (a, wide)]
        >>> ends, data = (PointPosterior(a), PointPosterior(wide)), [(torch.ones(2, 1), torch.zeros(2))]
        >>> coupling = TransportMatcher().couple(*ends, *specs, model=model, data=data)
        >>> coupling.apply(wide)["1.weight"].tolist()
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
            model: The reference's network: it is run once to see along which axes of its tensors units are read, and on
                all data for activations.
            candidate_model: The candidate's, if its widths are others.
            data: Batches ``(inputs, targets)``: the first one to see how the network uses its tensors, all of them for
                activations. Not needed for weights with a traced specification, which knows inputs that fit.
            generator: Source of drawn networks; a fixed seed if not given.

        Returns:
            The coupling.

        Raises:
            InvalidInputError: If the specifications differ in more than the sizes of groups, posteriors do not fit
                them, or something that is needed is missing: between different widths, and for plans that leave out
                mass, it must be known along which axes units are read.
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
            coupling, reading = self._coupled(problem, other.layout, candidate_model or model, spec.example_inputs)
        every = {(name, number) for name, axes in spec.layout.axes.items() for number in range(len(axes))}
        require_direction(coupling, every if reading is None else reading.unclear_axes)
        return coupling

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        families = families_of(problem.layout)
        coupling, _ = self._coupled(problem, problem.layout, problem.model, None)
        nearest = nearest_permutations(families, coupling.plans, coupling.costs)
        indices = {**Permutation.identity(problem.layout).indices, **{n: index.cpu() for n, index in nearest.items()}}
        best = BestSoFar(problem, lambda permutation: -self._distance(problem, families, coupling.costs, permutation))
        best.offer(Permutation(problem.layout, indices))
        return best.result(MatchOutcome.CONVERGED, {"total": perf_counter() - start})

    def _coupled(
        self,
        problem: MatchProblem,
        other: Layout,
        candidate_model: nn.Module | None,
        example: ExampleInputs | None,
    ) -> tuple[Coupling, ModelReading | None]:
        """Return the coupling, and what each weight is to the reference's network, if that is known."""
        layout = problem.layout
        families = families_of(layout)
        moments = None
        if self.cost == "activations":
            moments = CrossMoments.of(problem, candidate_model, self.num_samples)
        reading = _reading(problem, example) if moments is None else moments.reading
        reads = conventional_input_axes(layout) if reading is None else reading.input_axes
        coupling = Coupling(layout, other, {}, {}, reads)
        if moments is None:
            coupling = self._by_weights(problem, coupling, families)
        else:
            coupling = self._by_activations(moments, coupling, families)
        missing = [n for n in families if n not in coupling.plans and layout.groups[n].size != other.groups[n].size]
        if missing:
            message = f"nothing tells how the units of {missing[:5]} correspond, whose numbers differ"
            raise InvalidInputError(message)
        return coupling, reading

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
        plans = {**coupling.plans, group: plan, **inner}
        known = {**coupling.costs, group: cost, **within}
        return replace(coupling, plans=plans, costs=known)

    def _solver(self) -> TransportSolver:
        return TransportSolver(
            method=self.method, regularization=self.regularization, relaxation=self.relaxation, mass=self.mass
        )

    def _channels(self, posterior: Posterior) -> dict[str, Tensor]:
        return widened(mean_channels(posterior) if self.cost == "weights" else moment_channels(posterior))

    def _by_activations(self, moments: CrossMoments, coupling: Coupling, families: Families) -> Coupling:
        costs: dict[str, dict[str, Tensor]] = {}
        for name, (number, distances) in moments.distances().items():
            axes = coupling.layout.axes[name][number], coupling.candidate_layout.axes[name][number]
            for group, unit, part in activation_costs(families, axes, distances):
                known = costs.setdefault(group, {})
                known[unit] = known[unit] + part if unit in known else part
        for group, found in costs.items():
            coupling = self._with_plans(coupling, group, found)
        return coupling

    def _distance(
        self, problem: MatchProblem, families: Families, costs: Mapping[str, Tensor], permutation: Permutation
    ) -> float:
        """Return the objective: the distance of weights (and standard deviations), or the total transport cost."""
        if self.cost == "activations":
            return carried_cost(families, costs, permutation.indices)
        moved = permutation.apply(problem.candidate)
        total = squared_distance(problem.reference.mean, moved.mean)
        spreads: Mapping[str, Tensor] = problem.reference.stddev if self.cost == "moments" else {}
        return total + squared_distance(spreads, moved.stddev)


def _reading(problem: MatchProblem, example: ExampleInputs | None) -> ModelReading | None:
    """Return what each weight is to the reference's network; None if the network, or inputs for it, are missing."""
    if problem.model is None:
        return None
    like = problem.reference
    model = FunctionalModel(problem.model, device=like.device, dtype=like.dtype)
    first = None if problem.data is None else next(iter(problem.data), None)
    if first is not None:
        return model.reading(model.to_device(first[0][:_TRIAL_ROWS]))
    return None if example is None else model.reading_of_call(*example)
