"""Recomputed statistics and repaired activations along a path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import RebasinWarning
from rebasin_core.evaluation import ActivationRepair, FunctionalModel, refreshed_buffers
from tests.evaluation.implementations import IMPLEMENTATIONS, OTHER_IMPLEMENTATIONS, as_outputs_inputs, layers


def inputs(rows: int = 200) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(5)).double()


def batches(size: int = 50) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = inputs()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return list(zip(x.split(size), y.split(size), strict=True))


def network(seed: int, *, bias: bool = True, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(6, 9, bias=bias)]
    layers += [nn.BatchNorm1d(9)] if norm else []
    layers += [nn.ReLU(), nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3, bias=bias)]
    return nn.Sequential(*layers).double()


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("size", [50, 200])
def test_repaired_moments_are_the_requested_ones(size: int) -> None:
    first, second = network(0), network(1)
    repair = ActivationRepair(first, inputs()[:2], dtype=torch.float64)
    data = batches(size)
    wanted = repair.moments(tensors(first), data).blend(repair.moments(tensors(second), data), 0.3)
    midpoint = {n: torch.lerp(t, tensors(second)[n], 0.3) for n, t in tensors(first).items()}
    repaired = repair.maps(midpoint, data, wanted).folded(midpoint)
    found = repair.moments(repaired, data)
    for name in wanted.mean:
        torch.testing.assert_close(found.mean[name], wanted.mean[name])
        torch.testing.assert_close(found.stddev[name], wanted.stddev[name])
    # Explicitly, for the first layer.
    outputs = first[0](inputs())
    torch.testing.assert_close(repair.moments(tensors(first), data).mean["0"], outputs.mean(0).detach())


def test_layers_without_a_bias_are_only_scaled() -> None:
    first = network(0, bias=False)
    repair = ActivationRepair(first, inputs()[:2], dtype=torch.float64)
    wanted = repair.moments(tensors(first), batches())
    small = {n: 0.5 * t for n, t in tensors(first).items()}
    repaired = repair.maps(small, batches(), wanted).folded(small)
    torch.testing.assert_close(repaired["0.weight"], tensors(first)["0.weight"])
    torch.testing.assert_close(repaired["2.weight"], tensors(first)["2.weight"])
    torch.testing.assert_close(repaired["4.weight"], small["4.weight"])


def test_constant_units_are_not_rescaled() -> None:
    model = network(0)
    dict(model.named_parameters())["0.weight"].data[3] = 0
    repair = ActivationRepair(model, inputs()[:2], dtype=torch.float64)
    found = repair.maps(tensors(model), batches(), repair.moments(tensors(model), batches()))
    assert found.scale["0"][3] == 1.0
    assert all(bool(torch.isfinite(t).all()) for t in found.folded(tensors(model)).values())


def test_convolutions_are_repaired_by_channel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    x = torch.randn(30, 1, 6, 6).double()
    repair = ActivationRepair(model, x[:2], dtype=torch.float64)
    data = [(x, torch.zeros(30).long())]
    moments = repair.moments(tensors(model), data)
    torch.testing.assert_close(moments.stddev["0"], model[0](x).std((0, 2, 3), correction=0).detach())
    halved = {n: 0.5 * t if n.startswith("0") else t for n, t in tensors(model).items()}
    repaired = repair.maps(halved, data, moments).folded(halved)
    torch.testing.assert_close(FunctionalModel(model, dtype=torch.float64)(repaired, x), model(x).detach())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("wrapper", [rc.barriers.RepairBarrier, rc.barriers.ResetBarrier])
def test_adjustments_change_the_midpoint_only(
    wrapper: type[rc.barriers.RepairBarrier | rc.barriers.ResetBarrier], *, per_sample: bool
) -> None:
    norm = wrapper is rc.barriers.ResetBarrier
    first, second = network(0, norm=norm), network(1, norm=norm)
    for model in (first, second):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            for x, y in batches():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        model.eval()
    small = 0.01
    endpoints: list[rc.Posterior] = [
        rc.posteriors.DiagonalGaussianPosterior(
            {n: p.detach() for n, p in m.named_parameters()},
            {n: torch.full_like(p, small) for n, p in m.named_parameters()},
            buffers=dict(m.named_buffers()),
        )
        for m in (first, second)
    ]
    options: dict[str, Any] = {"task": rc.Task(first, batches(), calibration=batches(200))}
    inner = rc.barriers.MarginalizedBarrier(num_points=3, num_samples=8)
    plain = rc.barriers.MarginalizedBarrier(num_points=3, num_samples=8, evaluation=rc.EvaluationOptions(method="loop"))
    before = plain.estimate(endpoints[0], endpoints[1], **options)
    after = wrapper(estimator=inner, per_sample=per_sample).estimate(endpoints[0], endpoints[1], **options)
    assert after.loss[0] == pytest.approx(before.loss[0], rel=1e-6)
    assert after.loss[-1] == pytest.approx(before.loss[-1], rel=1e-6)
    assert after.loss[1] != pytest.approx(before.loss[1], rel=1e-3)


def test_samples_are_repaired_towards_their_own_endpoint_networks() -> None:
    members = [dict(network(seed).named_parameters()) for seed in range(4)]
    first, second = (
        rc.posteriors.SamplesPosterior({name: torch.stack([m[name].detach() for m in order]) for name in members[0]})
        for order in (members, members[::-1])
    )
    estimator = rc.barriers.RepairBarrier(
        estimator=rc.barriers.MarginalizedBarrier(num_points=3, num_samples=4), per_sample=True
    )
    curve = estimator.estimate(first, second, rc.Task(network(0), batches(), calibration=batches(200)))
    # The path pairs each network with itself: the repair has no effect.
    assert curve.loss[1] == pytest.approx(curve.loss[0], rel=1e-9)


def test_antithetic_pairs_are_antithetic_at_the_endpoints() -> None:
    endpoints = [
        rc.posteriors.DiagonalGaussianPosterior(
            {n: p.detach() for n, p in network(0).named_parameters()},
            {n: torch.full_like(p, 0.3) for n, p in network(0).named_parameters()},
        )
        for _ in range(2)
    ]
    evaluation = rc.EvaluationOptions(method="loop", antithetic=True)
    estimator = rc.barriers.RepairBarrier(
        estimator=rc.barriers.MarginalizedBarrier(num_points=3, num_samples=4, evaluation=evaluation), per_sample=True
    )
    curve = estimator.estimate(
        endpoints[0], endpoints[1], task=rc.Task(network(0), batches(), calibration=batches(200))
    )
    assert curve.loss[1] == pytest.approx(curve.loss[0], rel=1e-9)


def test_reset_statistics_equal_those_of_one_batch() -> None:
    model = network(0, norm=True)
    found = refreshed_buffers(model, dict(model.named_parameters()), batches(200))
    outputs = model[0](inputs()).detach()
    torch.testing.assert_close(found["1.running_mean"], outputs.mean(0))
    torch.testing.assert_close(found["1.running_var"], outputs.var(0, correction=1))


def repaired_midpoint(implementation: str) -> tuple[list[torch.Tensor], rc.LossCurve]:
    """Return the weights of the repaired midpoint of two networks, and the loss along the path."""
    first = IMPLEMENTATIONS[implementation](layers((6, 9, 8, 3), 0))
    second = IMPLEMENTATIONS[implementation](layers((6, 9, 8, 3), 1))
    repair = ActivationRepair(first, inputs()[:2], dtype=torch.float64)
    wanted = repair.moments(tensors(first), batches()).blend(repair.moments(tensors(second), batches()), 0.5)
    midpoint = {name: torch.lerp(tensor, tensors(second)[name], 0.5) for name, tensor in tensors(first).items()}
    folded = repair.maps(midpoint, batches(), wanted).folded(midpoint)
    found = repair.moments(folded, batches())
    assert len(found.mean) == 2
    for name in wanted.mean:
        torch.testing.assert_close(found.mean[name], wanted.mean[name])
        torch.testing.assert_close(found.stddev[name], wanted.stddev[name])
    endpoints = [rc.posteriors.PointPosterior.from_module(model) for model in (first, second)]
    estimator = rc.barriers.RepairBarrier(estimator=rc.barriers.PointwiseBarrier(num_points=3))
    return as_outputs_inputs(first, folded), estimator.estimate(endpoints[0], endpoints[1], rc.Task(first, batches()))


@pytest.mark.parametrize("implementation", OTHER_IMPLEMENTATIONS)
def test_repair_does_not_depend_on_the_implementation(implementation: str) -> None:
    expected, curve = repaired_midpoint("linear")
    found, other = repaired_midpoint(implementation)
    torch.testing.assert_close(found, expected)
    assert other.loss[1] == pytest.approx(curve.loss[1], rel=1e-9)


def test_weights_that_cannot_be_repaired_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.twice, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 5), nn.Linear(5, 3)

        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.cell(x[:, None])[0][:, 0]
            output: torch.Tensor = self.head(self.twice(self.twice(hidden)))
            return output

    with pytest.warns(RebasinWarning, match=r"`cell\.weight_hh_l0` \(.*gru.*`twice\.weight` \(.*2 times") as caught:
        repair = ActivationRepair(Recurrent().double(), inputs()[:2], dtype=torch.float64)
    assert not repair
    assert len(caught) == 1
    assert "head" not in str(caught[0].message)


def test_fixed_filters_are_not_repaired() -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv1d(1, 3, 2), nn.Conv1d(3, 3, 2), nn.Linear(9, 3)
            self.register_buffer("blur", torch.ones(3, 1, 2) / 2)

        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = nn.functional.conv1d(self.first(x[:, None]).relu(), self.get_buffer("blur"), groups=3)
            output: torch.Tensor = self.head(self.second(hidden).flatten(1))
            return output

    model = Blurred().double()
    repair = ActivationRepair(model, inputs()[:2], dtype=torch.float64)
    wanted = repair.moments(tensors(model), batches())
    assert list(wanted.mean) == ["first", "second"]
    small = {name: 0.5 * tensor if name != "blur" else tensor for name, tensor in tensors(model).items()}
    repaired = repair.maps(small, batches(), wanted).folded(small)
    assert torch.equal(repaired["blur"], tensors(model)["blur"])
    torch.testing.assert_close(repaired["second.weight"], tensors(model)["second.weight"])


def test_a_tied_head_is_the_last_layer() -> None:
    """If the head shares its weight with the embedding, the layer before it is still repaired."""
    model = rc.architectures.GPTArchitecture(width=8, depth=1, heads=2, hidden=12).build((4,), 7).eval()
    tokens = torch.randint(7, (16, 4), generator=torch.Generator().manual_seed(0))
    repair = ActivationRepair(model, tokens[:2])
    found = repair.moments({n: t.detach() for n, t in model.named_parameters()}, [(tokens, tokens)])
    assert list(found.mean) == [f"blocks.0.{name}" for name in ("attention.qkv", "attention.out", "up", "down")]
