"""Composition of adjustments, and adjustments at the endpoints, compared with networks that are adjusted by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.barriers import AbstractAdjustedBarrier, PathAdjustment, PointwiseBarrier, RepairBarrier, ResetBarrier
from rebasin_core.barriers.adjustment import Endpoints
from rebasin_core.barriers.base import BarrierProblem
from rebasin_core.evaluation.networks import Adjust

Seen = list[tuple[float, rc.Posterior, Endpoints]]


class Affine(PathAdjustment):
    """Maps weights w to ``scale * w + shift`` at interior points."""

    def __init__(self, scale: float, shift: float, seen: Seen) -> None:
        self.scale, self.shift, self.seen = scale, shift, seen

    @override
    def at(self, t: float, point: rc.Posterior, endpoints: Endpoints) -> Adjust | None:
        self.seen.append((t, point, endpoints))
        if t in {0.0, 1.0}:
            return None

        def mapped(tensors: Mapping[str, Tensor], _: int) -> Mapping[str, Tensor]:
            return {name: self.scale * tensor + self.shift for name, tensor in tensors.items()}

        return mapped


SEEN: dict[str, Seen] = {"scale": [], "shift": []}


class ScaleBarrier(AbstractAdjustedBarrier):
    name: Literal["scale"] = "scale"

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return Affine(2.0, 0.0, SEEN["scale"])


class ShiftBarrier(AbstractAdjustedBarrier):
    name: Literal["shift"] = "shift"

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return Affine(1.0, 1.0, SEEN["shift"])


POINTWISE = PointwiseBarrier(num_points=3)


def network(weight: float) -> rc.Posterior:
    return rc.posteriors.PointPosterior({"weight": torch.full((1, 1), weight).double()})


@pytest.mark.parametrize("scale_first", [False, True])
def test_the_outer_adjustment_is_applied_first(*, scale_first: bool) -> None:
    x, y = torch.linspace(-1, 1, 9).double()[:, None], torch.zeros(9, 1).double()
    task = rc.Task(nn.Linear(1, 1, bias=False), [(x, y)], likelihood="gaussian")
    for seen in SEEN.values():
        seen.clear()
    if scale_first:
        nested: rc.BarrierEstimator = ScaleBarrier(estimator=ShiftBarrier(estimator=POINTWISE))
    else:
        nested = ShiftBarrier(estimator=ScaleBarrier(estimator=POINTWISE))
    found = rc.barrier(network(0.5), network(1.5), task, estimator=nested)
    midpoint = 2 * 1.0 + 1 if scale_first else 2 * (1.0 + 1)
    expected = [rc.score(network(weight), task).nll for weight in (0.5, midpoint, 1.5)]
    assert found.loss == pytest.approx(expected)
    for seen in SEEN.values():
        assert [t for t, _, _ in seen] == [0.0, 0.5, 1.0]
        assert [point.mean["weight"].item() for _, point, _ in seen] == [0.5, 1.0, 1.5]
        for _, _, endpoints in seen:
            networks = [[tensors["weight"].item() for tensors in endpoint] for endpoint in endpoints]
            assert networks == [[0.5], [1.5]]


def normalized(seed: int, *, hidden: bool = True) -> nn.Sequential:
    """Return a network whose running statistics are not those of the data."""
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()] if hidden else [nn.BatchNorm1d(4)]
    model = nn.Sequential(*layers, nn.Linear(4, 3)).double().eval()
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean = torch.randn(4).double()
            layer.running_var = 0.5 + torch.rand(4).double()
    return model


INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["reset", "repair"])
@pytest.mark.parametrize("hidden", [False, True])
def test_endpoints_keep_their_statistics(name: str, *, hidden: bool, per_sample: bool) -> None:
    first, last = normalized(1, hidden=hidden), normalized(2, hidden=hidden)
    task = rc.Task(first, [(INPUTS, LABELS)])
    plain = rc.barrier(first, last, task, estimator=POINTWISE)
    estimator = {"name": name, "estimator": POINTWISE, "per_sample": per_sample}
    found = rc.barrier(first, last, task, estimator=estimator)
    assert (found.loss[0], found.loss[2]) == pytest.approx((plain.loss[0], plain.loss[2]), abs=1e-12)
    assert abs(found.loss[1] - plain.loss[1]) > 1e-3


def test_without_repairable_layers_repair_is_a_reset() -> None:
    first, last = normalized(1, hidden=False), normalized(2, hidden=False)
    middle = copy.deepcopy(first)
    with torch.no_grad():
        for own, one, other in zip(middle.parameters(), first.parameters(), last.parameters(), strict=True):
            own.copy_((one + other) / 2)
        norm = middle[0]
        assert isinstance(norm, nn.BatchNorm1d)
        norm.running_mean, norm.running_var = INPUTS.mean(0), INPUTS.var(0)
        expected = nn.functional.cross_entropy(middle(INPUTS), LABELS).item()
    task = rc.Task(first, [(INPUTS, LABELS)])
    for estimator in (ResetBarrier(estimator=POINTWISE), RepairBarrier(estimator=POINTWISE)):
        assert rc.barrier(first, last, task, estimator=estimator).loss[1] == pytest.approx(expected, abs=1e-9)
