"""The laws of barrier estimators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from rebasin_core.evaluation.likelihoods import GaussianLikelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.modules import copied
from rebasin_core.testing.cases import gaussian, network
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.posteriors.base import Posterior


def _curve(config: object, reference: Posterior, candidate: Posterior, seed: int = 0) -> LossCurve:
    case = network()
    estimator = cast("BarrierEstimator", config)
    return estimator.estimate(reference, candidate, Task(case.model, case.data), generator=seeded(seed))


@law("barrier")
def equal_endpoints(config: object, folder: Path) -> None:
    """Between a posterior and itself the loss is constant, and the barrier is zero."""
    del folder
    curve = _curve(config, gaussian(0), gaussian(0))
    expect(abs(curve.height) < 1e-12, f"the barrier between equal endpoints is {curve.height}")
    expect(max(curve.loss) - min(curve.loss) < 1e-9, f"the loss between equal endpoints varies: {curve.loss}")


@law("barrier")
def closed_form_on_a_quadratic(config: object, folder: Path) -> None:
    """For a linear model and Gaussian noise, the loss along the path is the parabola in closed form."""
    del folder
    model = nn.Linear(1, 1, bias=False).double()
    device = device_under_test()
    a = -1.0
    b = 2.0
    scale = 0.7
    reference, candidate = [
        PointPosterior({"weight": torch.full((1, 1), value, dtype=torch.float64, device=device)}) for value in (a, b)
    ]
    x = torch.ones(1, 1, dtype=torch.float64)
    y = torch.zeros(1, 1, dtype=torch.float64)
    estimator = cast("BarrierEstimator", config)
    task = Task(model, [(x, y)], likelihood=GaussianLikelihood(scale=scale))
    curve = estimator.estimate(reference, candidate, task=task)
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    for t, loss in zip(curve.t, curve.loss, strict=True):
        expected = 0.5 * (((1 - t) * a + t * b) / scale) ** 2 + constant
        expect(abs(loss - expected) < 1e-9, f"at t = {t} the loss is {loss}, the closed form {expected}")


@law("barrier")
def reversal(config: object, folder: Path) -> None:
    """Exchanging the posteriors maps t to 1 - t, up to five stated standard errors."""
    del folder
    forward = _curve(config, gaussian(0), gaussian(1))
    backward = _curve(config, gaussian(1), gaussian(0), seed=5)
    for loss, mirrored, s, r in zip(
        forward.loss, reversed(backward.loss), forward.stderr, reversed(backward.stderr), strict=True
    ):
        allowed = 5 * math.hypot(s, r) + 1e-9
        expect(abs(loss - mirrored) <= allowed, f"losses {loss} and {mirrored} differ by more than {allowed:.2e}")


@law("barrier")
def errors_stated(config: object, folder: Path) -> None:
    """All losses and the barrier have finite standard errors."""
    del folder
    curve = _curve(config, gaussian(0), gaussian(1))
    errors = (*curve.stderr, *curve.data_stderr, curve.height_stderr, curve.height_data_stderr)
    expect(all(math.isfinite(e) and e >= 0 for e in errors), f"expected finite standard errors, got {errors}")
    expect(len(curve.t) == len(curve.loss) == len(curve.stderr), "expected one standard error for each loss")
    expect((curve.t[0], curve.t[-1]) == (0.0, 1.0), f"expected t from 0 to 1, got {curve.t}")


@law("barrier")
def no_side_effects(config: object, folder: Path) -> None:
    """Posteriors, parameters and the mode of the model are not changed."""
    del folder
    case = network()
    endpoints = (gaussian(0), gaussian(1))
    case.model.train()
    before = [*(copied(q.mean) for q in endpoints), copied(dict(case.model.named_parameters()))]
    cast("BarrierEstimator", config).estimate(*endpoints, task=Task(case.model, case.data))
    after: list[dict[str, torch.Tensor]] = [*(q.mean for q in endpoints), dict(case.model.named_parameters())]
    for now, then in zip(after, before, strict=True):
        expect_equal(now, then, "after estimating")
    expect(case.model.training, "the model was left in evaluation mode")


@law("barrier")
def reproducibility(config: object, folder: Path) -> None:
    """Equal generator states give equal curves, and the global generator is not used."""
    del folder
    state = torch.get_rng_state()
    curves = [_curve(config, gaussian(0), gaussian(1), seed=3) for _ in range(2)]
    expect(curves[0].loss == curves[1].loss, "two runs with the same seed differ")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was used")


@law("barrier")
def calibration(config: object, folder: Path) -> None:
    """An estimator with ``uses_calibration = False`` returns the same curve with other calibration data."""
    del folder
    estimator = cast("BarrierEstimator", config)
    if estimator.uses_calibration:
        return
    case = network()
    curves = []
    for data in (case.data, [(inputs + 1, targets) for inputs, targets in case.data]):
        task = Task(case.model, case.data, calibration=data)
        curves.append(estimator.estimate(gaussian(0), gaussian(1), task, generator=seeded()))
    expect(curves[0].loss == curves[1].loss, f"the calibration data changed the losses: {curves}")
