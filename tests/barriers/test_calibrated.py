"""One softmax temperature for each point of a path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.barriers import CalibratedBarrier
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior

# Logits (w, 0) for two classes of which a fraction of 0.9 is class 0: the best logit is log 9.
MODEL = nn.Linear(1, 2, bias=False).double()
TARGETS = torch.tensor([0] * 9 + [1])
TASK = rc.Task(MODEL, [(torch.ones(10, 1).double(), TARGETS)])
ENTROPY = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))


def point(logit: float) -> PointPosterior:
    return PointPosterior({"weight": torch.tensor([[logit], [0.0]], dtype=torch.float64)})


def loss(logit: float) -> float:
    return 0.9 * math.log1p(math.exp(-logit)) + 0.1 * math.log1p(math.exp(logit))


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_best_in_closed_form(scale: float) -> None:
    logit = scale * math.log(9)
    curve = rc.barrier(point(logit), point(logit), TASK, estimator="calibrated", num_points=3)
    assert curve.loss[1] == pytest.approx(ENTROPY, abs=1e-6)
    assert (curve.loss[0], curve.loss[2]) == pytest.approx((loss(logit), loss(logit)))


def test_endpoints_are_calibrated_on_request() -> None:
    estimator = {"name": "calibrated", "estimator": "pointwise", "endpoints": True}
    curve = rc.barrier(point(0.3), point(12.0), TASK, estimator=estimator, num_points=3)
    assert curve.loss == pytest.approx((ENTROPY,) * 3, abs=1e-6)
    assert curve.height < 1e-6


def test_the_temperature_is_fitted_on_calibration_data() -> None:
    # On the calibration data both classes are equally frequent, and the highest temperature is the best.
    balanced = [(torch.ones(10, 1).double(), torch.arange(10) % 2)]
    task = rc.Task(MODEL, TASK.data, calibration=balanced)
    curve = rc.barrier(point(3.0), point(3.0), task, estimator="calibrated", num_points=3)
    assert curve.loss[1] == pytest.approx(loss(3.0 / 50), rel=1e-3)


def test_accuracy_is_unchanged() -> None:
    options: dict[str, Any] = {"num_points": 5, "metric": "error"}
    plain = rc.barrier(point(0.3), point(-12.0), TASK, **options)
    calibrated = rc.barrier(point(0.3), point(-12.0), TASK, estimator="calibrated", **options)
    assert calibrated.loss == plain.loss


def test_one_temperature_is_fitted_to_the_predictive_of_a_posterior() -> None:
    weight = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    q = DiagonalGaussianPosterior({"weight": weight}, {"weight": torch.full_like(weight, 3.0)})
    estimator = {"name": "marginalized", "num_points": 3, "num_samples": 64}
    plain = rc.barrier(q, q, TASK, estimator=estimator)
    found = rc.barrier(q, q, TASK, estimator={"name": "calibrated", "estimator": estimator})
    assert found.loss[1] < plain.loss[1]
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)).double()
    logits = 2.0 + 3.0 * (noise[:, 0] - noise[:, 1])

    def predictive(temperature: float) -> float:
        p = torch.sigmoid(logits / temperature).mean().item()
        return -(0.9 * math.log(p) + 0.1 * math.log(1 - p))

    best = min(predictive(math.exp(k / 20)) for k in range(-78, 79))
    assert found.loss[1] == pytest.approx(best, abs=0.03)


def test_it_wraps_repaired_networks_and_passes_options_on() -> None:
    def normalized() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    torch.manual_seed(0)
    first, second = normalized(), normalized()
    x = torch.randn(40, 1)
    task = rc.Task(first, [(x, (x[:, 0] > 0).long())])
    inner = rc.barrier(first, second, task, estimator={"name": "reset", "estimator": "pointwise"}, num_points=3)
    wrapped = {"name": "calibrated", "estimator": {"name": "reset", "estimator": "pointwise"}}
    found = rc.barrier(first, second, task, estimator=wrapped, num_points=3)
    assert found.t == inner.t
    assert found.loss[1] < inner.loss[1]
    other_order = {"name": "reset", "estimator": {"name": "calibrated", "estimator": "pointwise"}}
    assert rc.barrier(first, second, task, estimator=other_order, num_points=3).loss == pytest.approx(found.loss)
    assert CalibratedBarrier().of_means() == CalibratedBarrier(estimator="pointwise").with_options(num_points=11)


def test_other_likelihoods_and_adaptive_allocation_raise_errors() -> None:
    regression = rc.Task(nn.Linear(1, 1), [(torch.ones(4, 1), torch.zeros(4, 1))], "gaussian")
    network = nn.Linear(1, 1)
    with pytest.raises(InvalidInputError, match="'gaussian', whose outputs are not logits"):
        rc.barrier(network, network, regression, estimator="calibrated")
    weight = torch.ones(2, 1).double()
    q = DiagonalGaussianPosterior({"weight": weight}, {"weight": weight})
    inner = {"name": "marginalized", "evaluation": {"allocation": "adaptive"}}
    with pytest.raises(InvalidInputError, match="`calibrated`"):
        rc.barrier(q, q, TASK, estimator={"name": "calibrated", "estimator": inner})
