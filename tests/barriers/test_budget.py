"""Barriers estimated to a requested error: the error is reached, stated truly, and not much more is spent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core import Task
from rebasin_core.barriers import LossCurve, MarginalizedBarrier, ResetBarrier
from rebasin_core.barriers.budget import FIRST_POINTS, ErrorGoal
from rebasin_core.errors import ConfigError, ConvergenceWarning
from rebasin_core.posteriors import DiagonalGaussianPosterior, SamplesPosterior


def pair(seed: int = 0, examples: int = 4000) -> tuple[DiagonalGaussianPosterior, DiagonalGaussianPosterior, Task]:
    """Return two posteriors with a barrier between their means, and a task."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    mean = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
    stddev = {n: torch.full_like(t, 0.3) for n, t in mean.items()}
    flipped = {n: -t if n in {"0.weight", "0.bias", "2.weight"} else t for n, t in mean.items()}
    inputs = torch.randn(examples, 2, generator=generator)
    for name, tensor in mean.items():
        model.get_parameter(name).data.copy_(tensor)
    targets = model(inputs).argmax(1)
    first, second = (DiagonalGaussianPosterior(side, stddev) for side in (mean, flipped))
    return first, second, Task(model, [(inputs, targets)])


def test_the_error_is_reached_with_few_points() -> None:
    first, second, task = pair()
    for error in (0.05, 0.004):
        curve = rc.barrier(first, second, task, error=error)
        assert curve.height > 0.2
        assert curve.height_stderr <= max(error, 0.25 * curve.height_data_stderr)
        assert FIRST_POINTS <= len(curve.t) <= 12
    relative = rc.barrier(first, second, task, relative_error=0.1)
    assert relative.height_stderr <= max(0.1 * relative.height, 0.25 * relative.height_data_stderr)
    both = rc.barrier(first, second, task, error=0.004, relative_error=0.5)
    assert both.height_stderr <= max(0.004, 0.25 * both.height_data_stderr)


def test_stated_errors_cover_the_exact_barrier() -> None:
    first, second, task = pair(examples=200)
    exact = rc.barrier(first, second, task, num_points=41, num_samples=4096, estimator="marginalized")
    deviations = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        curve = rc.barrier(first, second, task, error=0.02, generator=generator)
        scale = math.hypot(curve.height_stderr, exact.height_stderr, 0.01)  # 0.01: half the error, by the points
        deviations.append(abs(curve.height - curve.height_bias - exact.height) / scale)
    assert sum(deviation <= 2 for deviation in deviations) >= 17
    assert max(deviations) < 4


def test_single_networks_need_points_only() -> None:
    first, second, task = pair()
    exact = rc.barrier(first.mean, second.mean, task, num_points=201)
    for error in (0.1, 1e-3):
        curve = rc.barrier(first.mean, second.mean, task, error=error)
        assert curve.height_stderr == 0.0
        assert abs(curve.height - exact.height) <= error
        assert len(curve.t) < 15


def test_wrappers_means_and_samples() -> None:
    first, second, task = pair(examples=300)
    wrapped = rc.barrier(first, second, task, estimator=ResetBarrier(), error=0.05)
    assert wrapped.height_stderr <= max(0.05, 0.25 * wrapped.height_data_stderr)
    of_means = MarginalizedBarrier(error=0.05, relative_error=0.1).of_means()
    assert (of_means.error, of_means.relative_error) == (0.05, 0.1)
    one, other = [
        SamplesPosterior({n: t + 0.1 * torch.randn(6, *t.shape) for n, t in q.mean.items()}) for q in (first, second)
    ]
    curve = rc.barrier(one, other, task, error=0.05, path="mixture")
    assert curve.height_stderr <= max(0.05, 0.25 * curve.height_data_stderr)


def test_invalid_errors() -> None:
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="error"):
            MarginalizedBarrier(error=value)


def test_an_unreachable_error_is_a_warning() -> None:
    calls = []

    def estimate(samples: int, tolerance: float | None) -> LossCurve:
        calls.append((samples, tolerance))
        first, second, task = pair(examples=50)
        curve = rc.barrier(first, second, task, num_points=3, num_samples=4)
        return LossCurve(**{**{n: getattr(curve, n) for n in curve.__slots__}, "height_data_stderr": 0.0})

    with pytest.warns(ConvergenceWarning, match="needs more"):
        ErrorGoal(1e-9, None).reach(estimate)
    assert [samples for samples, _ in calls] == [16, 256, 4096, 8192]
