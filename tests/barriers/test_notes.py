"""Signed excess and notes of a curve: poor endpoints, and standard errors that cannot be trusted."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import EndpointWarning, StatedErrorWarning
from rebasin_core.evaluation import GaussianLikelihood

SCALE = 0.5
X = torch.linspace(-2, 2, 40).double()[:, None]
Y = 0.3 * X


def endpoint(mean: float, stddev: float | None = None) -> rc.Posterior:
    weight = {"weight": torch.full((1, 1), mean, dtype=torch.float64)}
    if stddev is None:
        return rc.posteriors.PointPosterior(weight)
    return rc.posteriors.DiagonalGaussianPosterior(weight, {"weight": torch.full((1, 1), stddev).double()})


def curve(first: rc.Posterior, last: rc.Posterior, **options: Any) -> rc.LossCurve:
    task = rc.Task(nn.Linear(1, 1, bias=False), [(X, Y)], likelihood=GaussianLikelihood(scale=SCALE))
    return rc.barrier(first, last, task, **{"num_points": 5, **options})


def exact(mean: float, stddev: float) -> float:
    variance = (stddev * X).square() + SCALE**2
    return (0.5 * (Y - mean * X).square() / variance + 0.5 * (2 * math.pi * variance).log()).mean().item()


def test_a_negative_excess_has_a_standard_error() -> None:
    with pytest.warns(EndpointWarning, match="worse than the midpoint"):
        found = curve(endpoint(0.0, 0.05), endpoint(0.6, 0.05), num_samples=64)
    assert (found.height, found.location) == (0.0, 0.0)
    wanted = exact(0.3, 0.05) - exact(0.0, 0.05)
    assert found.interior_location in {0.25, 0.75}
    quarter = exact(0.15, 0.05) - exact(0.0, 0.05)
    assert found.interior_excess == pytest.approx(quarter, abs=4 * found.interior_excess_stderr)
    assert found.excess[2] == pytest.approx(wanted, abs=4 * found.excess_stderr[2])
    assert 0 < found.interior_excess_stderr == found.height_stderr
    low, high = found.interval()
    assert low < quarter < high
    document = found.as_json()
    assert document["interior_excess"] == found.interior_excess < 0
    assert rc.LossCurve.from_json(document) == found


def test_note_on_endpoints_no_better_than_a_constant() -> None:
    classes = torch.tensor([0, 0, 0, 1])
    task = rc.Task(nn.Linear(1, 2, bias=False), [(torch.tensor([[1.0], [1.0], [1.0], [-1.0]]).double(), classes)])

    def network(logit: float) -> rc.Posterior:
        return rc.posteriors.PointPosterior({"weight": torch.tensor([[logit], [0.0]], dtype=torch.float64)})

    frequencies = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    with pytest.warns(
        EndpointWarning, match=r"the reference and the candidate are no better .*loss 0\.6931 and 0\.9741"
    ):
        found = rc.barrier(network(0.0), network(-0.5), task, num_points=3)
    assert found.baseline == pytest.approx(frequencies)
    with pytest.warns(EndpointWarning, match="^the candidate is no better"):
        rc.barrier(network(1.0), network(-0.5), task, num_points=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not rc.barrier(network(0.7), network(1.0), task, num_points=3).notes


@pytest.mark.parametrize(("metric", "value"), [("error", 0.25), ("brier", 0.375), ("gibbs", 0.562335)])
def test_baseline_uses_the_metric_of_the_curve(metric: str, value: float) -> None:
    task = rc.Task(nn.Linear(1, 2, bias=False), [(torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))])
    found = rc.barrier(task.model, task.model, task, num_points=3, metric=metric)
    assert found.baseline == pytest.approx(value, abs=1e-5)


def test_note_on_standard_errors_that_cannot_be_trusted() -> None:
    wide = (endpoint(0.3, 0.8), endpoint(0.3, 1.6))
    with pytest.warns(StatedErrorWarning, match="the Monte Carlo errors of the losses along the path cannot be"):
        found = curve(*wide, num_samples=8)
    assert any(note.startswith("the Monte Carlo error of the barrier cannot be trusted") for note in found.notes)
    assert max(found.least_effective_samples) < 4 < max(found.effective_samples)
    few = curve(
        endpoint(0.3, 0.01), endpoint(0.4, 0.02), num_samples=4, estimator={"name": "marginalized", "evaluation": LOOP}
    )
    assert any("estimated from 4 independent draws" in note for note in few.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not curve(endpoint(0.3, 0.02), endpoint(0.31, 0.03), num_samples=64).notes


LOOP = {"method": "loop"}


def test_note_on_endpoints_that_are_copies() -> None:
    with pytest.warns(EndpointWarning, match="copies of one network or posterior"):
        found = curve(endpoint(0.3, 0.1), endpoint(0.3, 0.1))
    assert found.interior_excess == pytest.approx(0.0, abs=1e-12)
    assert not any("trusted" in note for note in found.notes)
    assert any("copies" in note for note in curve(endpoint(0.3), endpoint(0.3)).notes)


def test_single_networks_have_no_monte_carlo_error() -> None:
    task = rc.Task(nn.Linear(1, 1, bias=False), [(X, Y)], likelihood=GaussianLikelihood(scale=SCALE))
    points = endpoint(0.1), endpoint(0.5)
    assert rc.score(points[0], task).nll_stderr == 0.0
    for name in ("pointwise", "marginalized"):
        found = rc.barrier(*points, task, estimator=name, num_points=3)
        assert (found.stderr, found.excess_stderr, found.height_stderr) == ((0.0,) * 3, (0.0,) * 3, 0.0)
        assert not found.is_random
        assert found.height_data_stderr > 0
        assert found.interval() == (found.interior_excess, found.interior_excess)
    # The error of a single sample of a distribution is unknown, not zero.
    assert math.isnan(rc.score(endpoint(0.1, 0.1), task, num_samples=1).nll_stderr)


def test_curves_of_earlier_versions_have_a_signed_excess() -> None:
    document = curve(endpoint(0.0, 0.05), endpoint(0.6, 0.05), num_samples=16).as_json()
    new = ("notes", "baseline", "degrees", "effective_samples", "least_effective_samples")
    old = {name: value for name, value in document.items() if name not in new and not name.startswith("interior")}
    found = rc.LossCurve.from_json(old)
    assert found.interior_excess < 0 < found.interior_excess_stderr
    assert math.isnan(found.interval()[0])
