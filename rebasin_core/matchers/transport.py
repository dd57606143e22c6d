"""Transport matching: optimal transport between the units of two networks, group by group."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import override

from rebasin_core.coupling.coupling import Coupling, conventional_input_axes, require_direction, require_same_form
from rebasin_core.coupling.ground_cost import WeightCosts, activation_costs
from rebasin_core.coupling.nested_groups import families_of, family_plans, nearest_permutations, permutation_cost
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.matchers.activation_statistics import CrossMoments, axis_of_units
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

# Number of examples of the trial run that determines how a network uses its tensors.
_TRIAL_ROWS = 2


@final
class TransportMatcher(Matcher):
    r"""Aligns units by optimal transport between them, one group at a time, starting at the inputs.

    The ground cost $C_{ij}$ between unit $i$ of the reference and unit $j$ of the candidate is, by the option ``cost``:

    - ``weights``: the squared distance between the means of their incoming weights.
    - ``moments``: the squared 2-Wasserstein (Bures) distance between their incoming weights as independent Gaussians,
      $\lVert m_i - m_j \rVert^2 + \lVert s_i - s_j \rVert^2$.
    - ``activations``: the mean squared distance between their activations on data.

    With weights, a layer is compared after the plan of the previous layer was applied to the candidate.

    `match` rounds the plans to the nearest permutations, and returns the identity if that has a smaller distance.
    `couple` returns the plans themselves, also between networks of **different widths**. OTFusion is the mean of the
    reference and ``coupling.apply(candidate)``. Attention heads are coupled by the cost of coupling the width inside
    them (`family_plans`).

    One run of the network determines which weights compute the units of a group, and which take them as inputs. Without
    a network and data, `match` assumes that weights are stored as ``[outputs, inputs, ...]``. The assumption affects
    only which weights are compared; every permutation preserves the function. `couple` raises an error in that case,
    unless both directions have equal matrices: between equal widths, with equal mass on all units.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching by activations, without a model and data.

    References:
        S. Singh, M. Jaggi (2020), "Model fusion via optimal transport", NeurIPS, arXiv 1910.05653, algorithm 1. It
        averages the outgoing weights of units of a wider network. Here they are added, which preserves the function if
        units are duplicates.

    Examples:
        >>> from torch import nn
        >>> from rebasin_core.specs import table_spec
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> a = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.tensor([[1.0, 2.0]])}
        >>> wide = {"0.weight": a["0.weight"][[1, 1, 0, 0]], "1.weight": a["1.weight"][:, [1, 1, 0, 0]] / 2}
        >>> specs = [table_spec({"0.weight": "hidden, -", "1.weight": "-, hidden"}, t) for t in (a, wide)]
        >>> posteriors, data = (PointPosterior(a), PointPosterior(wide)), [(torch.ones(2, 1), torch.zeros(2))]
        >>> coupling = TransportMatcher().couple(*posteriors, *specs, model=model, data=data)
        >>> coupling.apply(wide)["1.weight"].tolist()
        [[1.0, 2.0]]
    """

    name: Literal["transport"] = "transport"

    cost: GroundCost = "weights"
    """Ground cost: ``weights``, ``moments`` or ``activations``, see above."""

    method: PlanMethod = "exact"
    """Transport problem: ``exact``, ``entropic``, ``unbalanced`` or ``partial``, as in `TransportSolver`."""

    regularization: PositiveFloat = 0.05
    """Strength of the entropic regularization, in units of the cost's standard deviation."""

    relaxation: PositiveFloat = 1.0
    """Weight of the divergences of the marginals for ``unbalanced``, in the same units."""

    mass: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the mass that ``partial`` transports, in (0, 1]."""

    num_samples: PositiveInt = 4
    """Number of samples of each posterior for ``activations``; a single network is run once."""

    def couple(  # ruff: ignore[too-many-arguments] - both networks, and the inputs to run them
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
        """Return transport plans between the units of two networks, whose groups may have different widths.

        Args:
            reference: Posterior to align to. It is not changed.
            candidate: Posterior to map to the reference's shape. It is not changed.
            spec: Permutation symmetries of the reference.
            candidate_spec: Permutation symmetries of the candidate, if its widths differ; ``spec`` if None.
            model: Network of the reference. It is run once to determine the input axes of its tensors, and on all data
                for ``activations``.
            candidate_model: Network of the candidate, if its widths differ; ``model`` if None.
            data: Batches ``(inputs, targets)``. The first determines the input axes, all are used for ``activations``.
                Not needed for weights with a traced specification, which has example inputs.
            generator: Random number generator for posterior samples; seeded with 0 if None.

        Returns:
            The coupling.

        Raises:
            InvalidInputError: If the specifications differ in more than the sizes of groups, or the posteriors do not
                fit them. Also if the input axes cannot be determined and matter: between different widths, and for
                plans with unequal masses.
        """
        other = spec if candidate_spec is None else candidate_spec
        require_same_form(spec.layout, other.layout)
        sides = ((reference, spec, "the reference"), (candidate, other, "the candidate"))
        for posterior, its_spec, role in sides:
            its_spec.layout.check({**posterior.mean, **posterior.buffers}, role)
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
        every = {(name, axis) for name, axes in spec.layout.axes.items() for axis in range(len(axes))}
        require_direction(coupling, every if reading is None else reading.unclear_axes)
        return coupling

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        families = families_of(problem.layout)
        coupling, _ = self._coupled(problem, problem.layout, problem.model, None)
        nearest = nearest_permutations(families, coupling.plans, coupling.costs)
        indices = {**Permutation.identity(problem.layout).indices, **{n: index.cpu() for n, index in nearest.items()}}
        best = BestSoFar(problem, lambda e: -self._distance(problem, families, coupling.costs, e.permutation))
        best.update(Permutation(problem.layout, indices))
        return best.result(MatchOutcome.CONVERGED, {"total": perf_counter() - start})

    def _coupled(
        self,
        problem: MatchProblem,
        other: Layout,
        candidate_model: nn.Module | None,
        example: ExampleInputs | None,
    ) -> tuple[Coupling, ModelReading | None]:
        """Return the coupling, and how the reference's network uses its weights if it could be run."""
        layout = problem.layout
        families = families_of(layout)
        moments = None
        if self.cost == "activations":
            moments = CrossMoments.of(problem, candidate_model, self.num_samples)
        reading = _reading(problem, example) if moments is None else moments.reading
        input_axes = conventional_input_axes(layout) if reading is None else reading.input_axes
        coupling = Coupling(layout, other, {}, {}, input_axes)
        if moments is None:
            coupling = self._by_weights(problem, coupling, families)
        else:
            coupling = self._by_activations(moments, coupling, families)
        missing = [n for n in families if n not in coupling.plans and layout.groups[n].size != other.groups[n].size]
        if missing:
            message = f"no weights or activations to compare the units of {missing[:5]}, whose numbers differ"
            raise InvalidInputError(message)
        return coupling, reading

    def _by_weights(self, problem: MatchProblem, coupling: Coupling, families: Families) -> Coupling:
        """Return the coupling by weights. Each group is coupled after the plans of the previous ones were applied."""
        channels = [self._channels(q) for q in (problem.reference, problem.candidate)]
        for side, role in zip(channels, ("the reference", "the candidate"), strict=True):
            require_finite(side, role)
        reference, candidate = coupling.layout.stacked(channels[0]), coupling.candidate_layout.stacked(channels[1])
        ground = WeightCosts(coupling, reference, candidate, families)
        waiting = list(families)
        while waiting:
            group = max(waiting, key=lambda name: ground.share_known(name, coupling.plans))
            waiting.remove(group)
            coupling = self._with_plans(coupling, group, ground.costs(group, coupling.plans))
        return coupling

    def _with_plans(self, coupling: Coupling, group: str, costs: Mapping[str, Tensor]) -> Coupling:
        """Return the coupling with the plans of one more group and its nested groups."""
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
        for name, (index, distances) in moments.distances().items():
            axes = axis_of_units(coupling.layout, name, index), axis_of_units(coupling.candidate_layout, name, index)
            for group, unit, part in activation_costs(families, axes, distances):
                known = costs.setdefault(group, {})
                known[unit] = known[unit] + part if unit in known else part
        for group, found in costs.items():
            coupling = self._with_plans(coupling, group, found)
        return coupling

    def _distance(
        self, problem: MatchProblem, families: Families, costs: Mapping[str, Tensor], permutation: Permutation
    ) -> float:
        """Return the squared distance of means (and standard deviations), or the total transport cost."""
        if self.cost == "activations":
            return permutation_cost(families, costs, permutation.indices)
        permuted = permutation.apply(problem.candidate)
        total = squared_distance(problem.reference.mean, permuted.mean)
        stddev: Mapping[str, Tensor] = problem.reference.stddev if self.cost == "moments" else {}
        return total + squared_distance(stddev, permuted.stddev)


def _reading(problem: MatchProblem, example: ExampleInputs | None) -> ModelReading | None:
    """Return how the reference's network uses its weights; None if the network or inputs for it are missing."""
    if problem.model is None:
        return None
    like = problem.reference
    model = FunctionalModel(problem.model, device=like.device, dtype=like.dtype)
    first = None if problem.data is None else next(checked_batches(problem.data), None)
    if first is not None:
        return model.reading(model.to_device(first[0][:_TRIAL_ROWS]))
    return None if example is None else model.reading_of_call(*example)
