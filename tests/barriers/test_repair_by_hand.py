"""REPAIR and recomputed statistics at t = 0.25, compared with explicit loops over the layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import pytest
import torch
from torch import Tensor, nn

import rebasin_core as rc

QUARTER = 0.25
Moments: TypeAlias = list[tuple[Tensor, Tensor]]


def network(seed: int, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = (4, 6, 5, 3)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def inputs(seed: int, rows: int) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)).double() + 0.5


CALIBRATION = inputs(1, 60)
TEST = inputs(2, 40)
LABELS = torch.randint(3, (40,), generator=torch.Generator().manual_seed(3))


def task(model: nn.Module) -> rc.Task:
    labels = torch.zeros(60, dtype=torch.long)
    batches = list(zip(CALIBRATION.split(25), labels.split(25), strict=True))
    return rc.Task(model, [(TEST, LABELS)], calibration=batches)


def moments(model: nn.Sequential) -> Moments:
    """Mean and standard deviation of the outputs of each layer but the last."""
    found = []
    hidden = CALIBRATION
    for layer in list(model)[:-1]:
        hidden = layer(hidden).detach()
        if isinstance(layer, nn.Linear):
            found.append((hidden.mean(0), hidden.std(0, correction=0)))
    return found


def between(first: Moments, second: Moments, t: float) -> Moments:
    return [
        ((1 - t) * mean + t * other, (1 - t) * stddev + t * other_stddev)
        for (mean, stddev), (other, other_stddev) in zip(first, second, strict=True)
    ]


def repair(model: nn.Sequential, wanted: Moments) -> nn.Sequential:
    """Rescale layer by layer: to the mean and standard deviation with a bias, to the root mean square without."""
    repaired = copy.deepcopy(model)
    targets = iter(wanted)
    hidden = CALIBRATION
    for layer in list(repaired)[:-1]:
        if isinstance(layer, nn.Linear):
            outputs = layer(hidden).detach()
            mean, stddev = outputs.mean(0), outputs.std(0, correction=0)
            target_mean, target = next(targets)
            with torch.no_grad():
                if "bias" not in dict(layer.named_parameters()):
                    layer.weight.mul_((outputs.square().mean(0) ** -0.5 * (target**2 + target_mean**2).sqrt())[:, None])
                else:
                    layer.weight.mul_((target / stddev)[:, None])
                    layer.bias.copy_((layer.bias - mean) * target / stddev + target_mean)
        hidden = layer(hidden).detach()
    return repaired


def interpolated(first: nn.Module, second: nn.Module, t: float) -> nn.Sequential:
    middle = copy.deepcopy(first)
    assert isinstance(middle, nn.Sequential)
    with torch.no_grad():
        for name, parameter in middle.named_parameters():
            parameter.copy_((1 - t) * first.get_parameter(name) + t * second.get_parameter(name))
    return middle


def loss(*models: nn.Module) -> float:
    """Negative mean log probability under the average prediction of the networks."""
    logs = torch.stack([model(TEST).log_softmax(-1)[torch.arange(40), LABELS] for model in models])
    return -(logs.logsumexp(0) - math.log(len(models))).mean().item()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_repair_at_a_quarter_equals_a_loop_over_the_layers(*, bias: bool) -> None:
    first, second = network(0, bias=bias), network(1, bias=bias)
    endpoints = [rc.posteriors.PointPosterior.from_module(model) for model in (first, second)]
    estimator = rc.barriers.RepairBarrier(estimator=rc.barriers.PointwiseBarrier(num_points=5))
    curve = estimator.estimate(endpoints[0], endpoints[1], task(first))
    middle = interpolated(first, second, QUARTER)
    expected = loss(repair(middle, between(moments(first), moments(second), QUARTER)))
    assert curve.t[1] == QUARTER
    assert curve.loss[1] == pytest.approx(expected, rel=1e-9)
    assert curve.loss[1] != pytest.approx(loss(middle), rel=1e-3), "the repair has no effect"
    assert (curve.loss[0], curve.loss[-1]) == pytest.approx((loss(first), loss(second)), rel=1e-9)


def as_samples(members: list[nn.Sequential]) -> rc.posteriors.SamplesPosterior:
    names = [name for name, _ in members[0].named_parameters()]
    buffers = [name for name, _ in members[0].named_buffers()]
    return rc.posteriors.SamplesPosterior(
        {name: torch.stack([member.get_parameter(name).detach() for member in members]) for name in names},
        sample_buffers={name: torch.stack([member.get_buffer(name) for member in members]) for name in buffers},
    )


def mean_network(members: list[nn.Sequential]) -> nn.Sequential:
    return interpolated(members[0], members[1], 0.5)


@pytest.mark.parametrize("per_sample", [True, False], ids=["by sample", "by mean"])
def test_samples_are_repaired_at_a_quarter(*, per_sample: bool) -> None:
    # The second set is close to the first, in the same order: optimal transport pairs equal indices.
    first = [network(seed) for seed in (0, 1)]
    second = [interpolated(member, network(seed), 0.2) for seed, member in enumerate(first, 5)]
    estimator = rc.barriers.RepairBarrier(
        estimator=rc.barriers.MarginalizedBarrier(num_points=5, num_samples=2), per_sample=per_sample
    )
    curve = estimator.estimate(as_samples(first), as_samples(second), task(first[0]))
    midpoints = [interpolated(a, b, QUARTER) for a, b in zip(first, second, strict=True)]
    if per_sample:
        repaired = [
            repair(middle, between(moments(a), moments(b), QUARTER))
            for middle, a, b in zip(midpoints, first, second, strict=True)
        ]
    else:
        center = mean_network(midpoints)
        wanted = between(moments(mean_network(first)), moments(mean_network(second)), QUARTER)
        repaired = [rescaled(middle, center, repair(center, wanted)) for middle in midpoints]
    assert curve.loss[1] == pytest.approx(loss(*repaired), rel=1e-9)


def rescaled(model: nn.Sequential, before: nn.Sequential, after: nn.Sequential) -> nn.Sequential:
    """Apply the affine map of each unit from `before` to `after` to `model`."""
    result = copy.deepcopy(model)
    for layer, old, new in zip(list(result)[:-1], before, after, strict=False):
        if isinstance(layer, nn.Linear) and isinstance(old, nn.Linear) and isinstance(new, nn.Linear):
            scale = (new.weight / old.weight)[:, 0].detach()
            with torch.no_grad():
                layer.weight.mul_(scale[:, None])
                layer.bias.copy_(layer.bias * scale + new.bias - old.bias * scale)
    return result


def with_norm(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double().train()
    for _ in range(20):
        model(inputs(seed, 30))
    return model.eval()


def recompute_statistics(model: nn.Sequential, source: nn.Sequential) -> None:
    """Set the statistics of `model` to those of `source` on the calibration data."""
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    outputs = source[0](CALIBRATION).detach()
    norm.running_mean = outputs.mean(0)
    # Batches of 25, 25 and 10 examples: each example has the same weight.
    norm.running_var = sum((len(rows) * rows.var(0) for rows in outputs.split(25)), torch.zeros(6)) / len(outputs)


@pytest.mark.parametrize("per_sample", [True, False], ids=["by sample", "by mean"])
@pytest.mark.parametrize("wrap", [rc.barriers.ResetBarrier, rc.barriers.RepairBarrier], ids=["reset", "repair"])
def test_statistics_of_samples_at_a_quarter(wrap: Callable[..., rc.BarrierEstimator], *, per_sample: bool) -> None:
    first = [with_norm(seed) for seed in (0, 1)]
    second = [interpolated(member, with_norm(seed), 0.2) for seed, member in enumerate(first, 5)]
    estimator = wrap(estimator=rc.barriers.MarginalizedBarrier(num_points=5, num_samples=2), per_sample=per_sample)
    curve = estimator.estimate(as_samples(first), as_samples(second), task(first[0]))
    midpoints = [interpolated(a, b, QUARTER) for a, b in zip(first, second, strict=True)]
    center = mean_network(midpoints)
    if wrap is rc.barriers.RepairBarrier and per_sample:
        midpoints = [
            repair(middle, between(moments(a), moments(b), QUARTER))
            for middle, a, b in zip(midpoints, first, second, strict=True)
        ]
    elif wrap is rc.barriers.RepairBarrier:
        repaired = repair(center, between(moments(mean_network(first)), moments(mean_network(second)), QUARTER))
        midpoints = [rescaled(middle, center, repaired) for middle in midpoints]
        center = repaired
    for middle in midpoints:
        recompute_statistics(middle, middle if per_sample else center)
    assert curve.loss[1] == pytest.approx(loss(*midpoints), rel=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [rc.barriers.ResetBarrier, rc.barriers.RepairBarrier],
    ids=["reset", "repair"],
)
def test_statistics_at_a_quarter_are_those_of_the_calibration_data(
    wrap: Callable[..., rc.BarrierEstimator],
) -> None:
    first, second = with_norm(0), with_norm(1)
    endpoints = [rc.posteriors.PointPosterior.from_module(model) for model in (first, second)]
    curve = wrap(estimator=rc.barriers.PointwiseBarrier(num_points=5)).estimate(endpoints[0], endpoints[1], task(first))
    middle = interpolated(first, second, QUARTER)
    if wrap is rc.barriers.RepairBarrier:
        wanted = between(moments(first), moments(second), QUARTER)
        middle = repair(middle, wanted)
    recompute_statistics(middle, middle)
    assert curve.loss[1] == pytest.approx(loss(middle), rel=1e-6)
