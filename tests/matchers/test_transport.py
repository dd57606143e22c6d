from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.func import functional_call
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.matchers.transport import GroundCost
from rebasin_core.tensors.optimal_transport import PlanMethod, TransportSolver, nearest_permutation
from tests.evaluation.implementations import IMPLEMENTATIONS, layers, spec_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(widths: list[int], seed: int = 0) -> tuple[nn.Module, rc.PermutationSpec]:
    architecture = rc.architectures.MLPArchitecture(hidden=widths, activation="tanh")
    model = architecture.build((5,), 3, generator=generator(seed)).double()
    return model, architecture.spec(model)


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def doubled(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network with each hidden unit duplicated, in random order, that computes the same function (Net2Net)."""
    tensors, order = parameters(model), None
    for number in range(3):
        weight, bias = tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"]
        if order is not None:
            weight = weight[:, order] / 2
        if number < 2:
            order = torch.randperm(2 * len(bias), generator=generator(number)) % len(bias)
            weight, bias = weight[order], bias[order]
        tensors |= {f"layers.{number}.weight": weight, f"layers.{number}.bias": bias}
    return tensors


@pytest.mark.parametrize("cost", ["weights", "activations"])
@pytest.mark.parametrize("wide_reference", [False, True])
def test_couplings_of_duplicated_units_preserve_the_function(cost: GroundCost, *, wide_reference: bool) -> None:
    narrow, spec = mlp([6, 4])
    wide, wide_spec = mlp([12, 8])
    inputs = torch.randn(50, 5, generator=generator(9), dtype=torch.float64)
    tensors, wide_tensors = parameters(narrow), doubled(narrow)
    outputs = functional_call(narrow, tensors, (inputs,))
    torch.testing.assert_close(functional_call(wide, wide_tensors, (inputs,)), outputs)
    sides = [(tensors, narrow, spec), (wide_tensors, wide, wide_spec)]
    first, second = sides[::-1] if wide_reference else sides
    coupling = rc.matchers.TransportMatcher(cost=cost).couple(
        rc.posteriors.PointPosterior(first[0]),
        rc.posteriors.PointPosterior(second[0]),
        first[2],
        second[2],
        model=first[1],
        candidate_model=second[1],
        data=[(inputs, torch.zeros(50))],
    )
    mapped = coupling.apply(second[0])
    torch.testing.assert_close(mapped, first[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(functional_call(first[1], mapped, (inputs,)), outputs)


def doubled_layers() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the layers of `layers` with each hidden unit duplicated, in random order; the function is the same."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    order = None
    for number, (weight, bias) in enumerate(layers()):
        columns = weight if order is None else weight[:, order] / 2
        order = torch.arange(len(bias))
        if number < 2:
            order = torch.randperm(2 * len(bias), generator=generator(number)) % len(bias)
        found.append((columns[order], bias[order]))
    return found


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("is_traced", [False, True])
def test_couplings_do_not_depend_on_how_a_network_is_written(implementation: str, *, is_traced: bool) -> None:
    narrow, wide = IMPLEMENTATIONS[implementation](layers()), IMPLEMENTATIONS[implementation](doubled_layers())
    inputs = torch.randn(50, 5, generator=generator(9), dtype=torch.float64)
    torch.testing.assert_close(wide(inputs), narrow(inputs))
    specs = [rc.trace_spec(model, inputs) if is_traced else spec_of(model) for model in (narrow, wide)]
    # A traced specification has example inputs; otherwise a batch is needed.
    data = None if is_traced else [(inputs, torch.zeros(50))]
    first, second = rc.posteriors.PointPosterior.from_module(narrow), rc.posteriors.PointPosterior.from_module(wide)
    coupling = rc.matchers.TransportMatcher().couple(
        first, second, specs[0], specs[1], model=narrow, candidate_model=wide, data=data
    )
    mapped = coupling.apply(dict(second.mean))
    torch.testing.assert_close(functional_call(narrow, mapped, (inputs,)), narrow(inputs), rtol=0, atol=1e-12)


def test_couplings_between_widths_require_the_input_axes() -> None:
    narrow, wide = IMPLEMENTATIONS["transposed"](layers()), IMPLEMENTATIONS["transposed"](doubled_layers())
    first, second = rc.posteriors.PointPosterior.from_module(narrow), rc.posteriors.PointPosterior.from_module(wide)
    spec, wide_spec = spec_of(narrow), spec_of(wide)
    with pytest.raises(InvalidInputError, match=r"`0\.matrix`.*pass `model` and `data`"):
        rc.matchers.TransportMatcher().couple(first, second, spec, wide_spec)
    with pytest.raises(InvalidInputError, match="pass `model` and `data`"):
        rc.matchers.TransportMatcher().couple(first, second, spec, wide_spec, model=narrow, candidate_model=wide)
    other = rc.posteriors.PointPosterior.from_module(IMPLEMENTATIONS["transposed"](layers(seed=1)))
    with pytest.raises(InvalidInputError, match="pass `model` and `data`"):
        rc.matchers.TransportMatcher(method="unbalanced").couple(first, other, spec)
    # Between equal widths, with equal mass on all units, both directions have the same matrix.
    planted = spec.random_permutation(generator=generator(1))
    coupling = rc.matchers.TransportMatcher().couple(first, planted.apply(first), spec)
    torch.testing.assert_close(coupling.apply(planted.apply(first).mean), dict(first.mean), rtol=0, atol=1e-12)


class Recurrent(nn.Module):
    """A recurrent layer, and a head with one factor per unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.factors = nn.GRU(4, width, batch_first=True), nn.Parameter(torch.ones(width))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.cell(x)[0]
        return (hidden * self.factors).sum(-1)


def test_couplings_of_recurrent_layers_and_sums_over_units() -> None:
    torch.manual_seed(0)
    narrow, wide = Recurrent(5).double(), Recurrent(10).double()
    weights = {name: torch.randn_like(tensor) for name, tensor in parameters(narrow).items()}
    order = torch.randperm(10) % 5
    candidate = {name: tensor.unflatten(0, (-1, 5))[:, order].flatten(0, 1) for name, tensor in weights.items()}
    candidate["cell.weight_hh_l0"] = candidate["cell.weight_hh_l0"][:, order] / 2
    candidate["factors"] /= 2
    inputs = torch.randn(3, 6, 4, dtype=torch.float64)
    outputs = functional_call(narrow, weights, (inputs,))
    torch.testing.assert_close(functional_call(wide, candidate, (inputs,)), outputs)
    specs = [rc.trace_spec(model, inputs) for model in (narrow, wide)]
    first, second = rc.posteriors.PointPosterior(weights), rc.posteriors.PointPosterior(candidate)
    coupling = rc.matchers.TransportMatcher().couple(
        first, second, specs[0], specs[1], model=narrow, candidate_model=wide
    )
    mapped = coupling.apply(candidate)
    torch.testing.assert_close(functional_call(narrow, mapped, (inputs,)), outputs, rtol=0, atol=1e-12)


class Tied(nn.Module):
    """An embedding table that is also the weight of the head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, width, generator=generator(), dtype=torch.float64))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(nn.functional.embedding(x, self.table), self.table)


def test_ambiguous_axes_are_named() -> None:
    models = [Tied(3), Tied(6)]
    specs = [rc.table_spec({"table": "-, units"}, model) for model in models]
    first = rc.posteriors.PointPosterior.from_module(models[0])
    second = rc.posteriors.PointPosterior.from_module(models[1])
    data = [(torch.tensor([[0, 1]]), torch.zeros(1))]
    with pytest.raises(InvalidInputError, match="`table`"):
        rc.matchers.TransportMatcher().couple(first, second, specs[0], specs[1], model=models[0], data=data)


def test_couplings_of_convolutions_and_flattened_features() -> None:
    def network(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(2, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 4, 3)).double()

    torch.manual_seed(0)
    narrow, wide = network(3), network(6)
    order = torch.tensor([2, 0, 1, 1, 2, 0])
    weights = parameters(narrow)
    pixels = weights["3.weight"].reshape(3, 3, 4)
    candidate = {
        "0.weight": weights["0.weight"][order],
        "0.bias": weights["0.bias"][order],
        "3.weight": (pixels[:, order] / 2).reshape(3, 24),
        "3.bias": weights["3.bias"],
    }
    rows = {"0.weight": "c, -, -, -", "0.bias": "c", "3.weight": "-, c*-", "3.bias": "-"}
    specs = [rc.table_spec(rows, model) for model in (narrow, wide)]
    coupling = rc.matchers.TransportMatcher().couple(
        rc.posteriors.PointPosterior(weights),
        rc.posteriors.PointPosterior(candidate),
        specs[0],
        specs[1],
        model=narrow,
        candidate_model=wide,
        data=[(torch.zeros(2, 2, 4, 4), torch.zeros(2))],
    )
    torch.testing.assert_close(coupling.apply(candidate), weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["exact", "entropic", "unbalanced", "partial"])
@pytest.mark.parametrize("cost", ["weights", "moments", "activations"])
def test_planted_permutations_are_found_by_every_method(method: str, cost: str) -> None:
    model, spec = mlp([7, 6])
    mean = parameters(model)
    reference = rc.posteriors.DiagonalGaussianPosterior(mean, {name: 0.01 + 0.01 * t.abs() for name, t in mean.items()})
    planted = spec.random_permutation(generator=generator(3))
    data = [(torch.randn(200, 5, generator=generator(4), dtype=torch.float64), torch.zeros(200))]
    matcher = rc.build("matcher", "transport", cost=cost, method=method, num_samples=2)
    result = matcher.match(reference, planted.apply(reference), spec, task=rc.Task(model, data))
    assert result.permutation == planted.inverse()


def transformer(seed: int = 0) -> tuple[nn.Module, rc.PermutationSpec]:
    """Return a transformer of two layers, with noise added to its weights so that units differ."""
    architecture = rc.architectures.ViTArchitecture(patch=4, width=12, depth=2, heads=3, hidden=10)
    model = architecture.build((3, 8, 8), 3, generator=generator(seed)).double()
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator(number), dtype=torch.float64)
    return model, architecture.spec(model)


@pytest.mark.parametrize("method", ["exact", "entropic", "unbalanced", "partial"])
@pytest.mark.parametrize("cost", ["weights", "moments"])
def test_planted_permutations_of_heads_and_of_the_width_inside_them(method: str, cost: str) -> None:
    model, spec = transformer()
    mean = parameters(model)
    reference = rc.posteriors.DiagonalGaussianPosterior(mean, {name: 0.01 + 0.01 * t.abs() for name, t in mean.items()})
    planted = spec.random_permutation(generator=generator(3))
    assert sum(group.within is not None for group in spec.layout.groups.values()) == 4
    # A larger regularization than the default needs a tenth of the iterations.
    regularization = 0.3 if method == "entropic" else 0.05
    matcher = rc.build("matcher", "transport", cost=cost, method=method, regularization=regularization)
    result = matcher.match(reference, planted.apply(reference), spec, task=rc.Task(model, []))
    assert result.permutation == planted.inverse()


def test_planted_permutations_of_heads_are_recovered_by_activations() -> None:
    model, spec = transformer()
    planted = spec.random_permutation(generator=generator(3))
    reference = rc.posteriors.PointPosterior.from_module(model)
    data = [(torch.randn(64, 3, 8, 8, generator=generator(4), dtype=torch.float64), torch.zeros(64))]
    matcher = rc.build("matcher", "transport", cost="activations")
    result = matcher.match(reference, planted.apply(reference), spec, task=rc.Task(model, data))
    assert result.permutation == planted.inverse()
    assert result.objective == pytest.approx(0.0, abs=1e-8)


def test_planted_permutations_of_heads_and_widths_on_separate_axes() -> None:
    torch.manual_seed(0)
    first = {"q": torch.randn(3, 4, 6), "v": torch.randn(3, 5, 6), "o": torch.randn(6, 3, 5), "gain": torch.randn(3)}
    rows = {"q": "heads, query@heads, -", "v": "heads, value@heads, -", "o": "-, heads, value@heads", "gain": "heads"}
    spec = rc.table_spec(rows, first)
    planted = spec.random_permutation(generator=generator(1))
    result = rc.matchers.TransportMatcher().match(
        rc.posteriors.PointPosterior(first), rc.posteriors.PointPosterior(planted.apply(first)), spec
    )
    assert result.permutation == planted.inverse()


def test_couplings_of_heads_preserve_the_function() -> None:
    model, spec = transformer()
    reference, planted = (
        rc.posteriors.PointPosterior.from_module(model),
        spec.random_permutation(generator=generator(5)),
    )
    permuted = planted.apply(reference)
    coupling = rc.matchers.TransportMatcher().couple(reference, permuted, spec, model=model)
    torch.testing.assert_close(coupling.apply(permuted.mean), dict(reference.mean), rtol=0, atol=1e-12)
    soft = rc.matchers.TransportMatcher(method="entropic", regularization=0.5).couple(
        reference, permuted, spec, model=model
    )
    for name, group in spec.layout.groups.items():
        if group.within is not None:
            heads, joint = soft.plans[group.within], soft.plans[name]
            torch.testing.assert_close(joint.sum((1, 3)), heads, rtol=1e-5, atol=1e-9)
            assert joint.sum().item() == pytest.approx(1.0, rel=1e-5)


def test_moments_distinguish_units_of_equal_means() -> None:
    mean = {"a.weight": torch.zeros(3, 2), "b.weight": torch.zeros(1, 3)}
    spec = rc.table_spec({"a.weight": "h, -", "b.weight": "-, h"}, mean)
    stddev = {"a.weight": torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2).clone(), "b.weight": torch.ones(1, 3)}
    reference = rc.posteriors.DiagonalGaussianPosterior(mean, stddev)
    permuted = rc.posteriors.DiagonalGaussianPosterior(mean, {**stddev, "a.weight": stddev["a.weight"][[2, 0, 1]]})
    assert rc.matchers.TransportMatcher(cost="weights").match(reference, permuted, spec).permutation.is_identity
    found = rc.matchers.TransportMatcher(cost="moments").match(reference, permuted, spec)
    assert torch.equal(found.apply(permuted).stddev["a.weight"], stddev["a.weight"])


@pytest.mark.parametrize("method", ["exact", "entropic", "unbalanced", "partial"])
def test_plans_against_their_definitions(method: PlanMethod) -> None:
    cost = torch.rand(6, 4, generator=generator(), dtype=torch.float64)
    plan = TransportSolver(method=method, mass=0.5).plan(cost)
    assert bool((plan >= 0).all())
    rows, columns = plan.sum(1), plan.sum(0)
    if method in {"exact", "entropic"}:
        torch.testing.assert_close(rows, torch.full((6,), 1 / 6, dtype=torch.float64), rtol=0, atol=1e-6)
        torch.testing.assert_close(columns, torch.full((4,), 1 / 4, dtype=torch.float64), rtol=0, atol=1e-6)
    if method == "partial":
        assert plan.sum().item() == pytest.approx(0.5)
        assert bool((rows <= 1 / 6 + 1e-9).all())
    if method == "exact":  # at most the cost of the entropic plan
        entropic = TransportSolver(method="entropic", regularization=0.01).plan(cost)
        assert (plan * cost).sum() <= (entropic * cost).sum() + 1e-9


def test_ties_in_a_plan_are_rounded_by_the_least_cost() -> None:
    cost = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert nearest_permutation(torch.full((2, 2), 0.25), cost).tolist() == [1, 0]


def test_bad_input() -> None:
    model, spec = mlp([6, 4])
    wide, wide_spec = mlp([12, 8])
    q, r = rc.posteriors.PointPosterior(parameters(model)), rc.posteriors.PointPosterior(parameters(wide))
    with pytest.raises(ConfigError, match=r"regularization: expected a value greater than 0, got 0.0"):
        rc.matchers.TransportMatcher(regularization=0.0)
    with pytest.raises(ConfigError, match="cost: expected 'weights', 'moments' or 'activations'"):
        rc.matchers.TransportMatcher(cost=cast("Any", "nothing"))
    with pytest.raises(InvalidInputError, match="pass `task`"):
        rc.matchers.TransportMatcher(cost="activations").match(q, q, spec)
    with pytest.raises(InvalidInputError, match="the candidate"):
        rc.matchers.TransportMatcher().couple(q, r, spec)
    with pytest.raises(InvalidInputError, match="shape"):
        rc.matchers.TransportMatcher().match(q, r, spec)
    _, deeper = mlp([12, 8, 4])
    with pytest.raises(InvalidInputError, match="do not have the same groups"):
        rc.matchers.TransportMatcher().couple(q, r, spec, deeper)
    assert wide_spec.layout.groups.keys() == spec.layout.groups.keys()
