from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_core import LossCurve, barrier
from rebasin_core.barriers import MarginalizedBarrier, PointwiseBarrier
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.evaluation import GaussianLikelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior, geodesic

SCALE = 0.5
X, Y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.4], [-0.3]]).double()


def endpoint(mean: float, stddev: float) -> DiagonalGaussianPosterior:
    shape = (1, 1)
    return DiagonalGaussianPosterior(
        {"weight": torch.full(shape, mean, dtype=torch.float64)}, {"weight": torch.full(shape, stddev).double()}
    )


def exact(mean: float, stddev: float) -> float:
    """Predictive loss of Bayesian linear regression: the predictive is Gaussian, and variances add up."""
    total = 0.0
    for x, y in zip(X.flatten().tolist(), Y.flatten().tolist(), strict=True):
        variance = (stddev * x) ** 2 + SCALE**2
        total += 0.5 * (y - mean * x) ** 2 / variance + 0.5 * math.log(2 * math.pi * variance)
    return total / len(X)


def curve(num_samples: int, seed: int = 0) -> LossCurve:
    model = nn.Linear(1, 1, bias=False)
    return MarginalizedBarrier(num_points=5, num_samples=num_samples).estimate(
        endpoint(-1.0, 0.3),
        endpoint(1.5, 0.6),
        Task(model, [(X, Y)], likelihood=GaussianLikelihood(scale=SCALE)),
        generator=torch.Generator().manual_seed(seed),
    )


def test_loss_along_the_geodesic_is_the_closed_form() -> None:
    found = curve(4000)
    for t, loss, stderr, bias in zip(found.t, found.loss, found.stderr, found.bias, strict=True):
        expected = exact((1 - t) * -1.0 + t * 1.5, (1 - t) * 0.3 + t * 0.6)
        assert abs(loss - expected) < 4 * stderr + bias, t


@pytest.mark.statistics
def test_stderr_of_the_height_is_the_standard_deviation_over_seeds() -> None:
    # A product of two weights: both endpoints compute x -> x, and the midpoint computes x -> 0.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    endpoints = [
        DiagonalGaussianPosterior(
            {name: torch.full((1, 1), value).double() for name in ("0.weight", "1.weight")},
            {name: torch.full((1, 1), 0.1).double() for name in ("0.weight", "1.weight")},
        )
        for value in (1.0, -1.0)
    ]
    found = [
        MarginalizedBarrier(num_points=3, num_samples=64).estimate(
            endpoints[0],
            endpoints[1],
            task=Task(model, [(X, X)], likelihood=GaussianLikelihood(scale=SCALE)),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in range(60)
    ]
    assert {c.location for c in found} == {0.5}
    # The standard deviation over 60 seeds has a relative error of 9 %; the tolerance is four of these.
    stddev = torch.tensor([c.height for c in found]).std().item()
    assert sum(c.height_stderr for c in found) / 60 == pytest.approx(stddev, rel=0.36)


def test_common_random_numbers_reduce_the_error_of_the_height() -> None:
    q, r = endpoint(1.0, 0.3), endpoint(1.1, 0.3)
    found = MarginalizedBarrier(num_points=3, num_samples=64).estimate(
        q, r, Task(nn.Linear(1, 1, bias=False), [(X, Y)], likelihood=GaussianLikelihood(scale=SCALE))
    )
    assert found.height_stderr < 0.1 * found.stderr[1]


def test_single_networks_have_no_monte_carlo_error() -> None:
    endpoints = [PointPosterior({"weight": torch.full((1, 1), v)}) for v in (-1.0, 1.5)]
    found = PointwiseBarrier(num_points=3).estimate(
        endpoints[0],
        endpoints[1],
        task=Task(nn.Linear(1, 1, bias=False), [(X, Y)], likelihood=GaussianLikelihood(scale=SCALE)),
    )
    assert found.stderr == (0.0, 0.0, 0.0)
    assert found.loss[1] == pytest.approx(exact(0.25, 0.0))
    assert found.data_stderr[1] > 0


def test_moments_path_connects_posteriors_of_different_classes() -> None:
    model = nn.Linear(1, 1, bias=False)
    samples = SamplesPosterior({"weight": torch.tensor([[[0.0]], [[1.0]]]).double()})
    options: dict[str, Any] = {"task": Task(model, [(X, Y)], likelihood=GaussianLikelihood(scale=0.1))}
    found = barrier(samples, endpoint(1.0, 0.3), estimator={"name": "marginalized", "path": "moments"}, **options)
    assert len(found.t) == 11
    by_samples = barrier(samples, endpoint(1.0, 0.3), num_points=3, **options)
    alone = barrier(samples, samples, num_points=3, **options)
    assert by_samples.loss[0] == pytest.approx(alone.loss[0], rel=0.2)
    by_geodesic = {"name": "marginalized", "path": "wasserstein"}
    with pytest.raises(InvalidInputError, match="no 2-Wasserstein geodesic of `SamplesPosterior` and `DiagonalGauss"):
        barrier(samples, endpoint(1.0, 0.3), estimator=by_geodesic, **options)


def test_samples_are_interpolated_in_pairs() -> None:
    model = nn.Linear(1, 1, bias=False)
    a = SamplesPosterior({"weight": torch.tensor([[[0.0]], [[1.0]]]).double()})
    b = SamplesPosterior({"weight": torch.tensor([[[1.1]], [[0.1]]]).double()})
    middle = geodesic(a, b)(0.5)
    assert isinstance(middle, SamplesPosterior)
    assert sorted(middle.samples["weight"].flatten().tolist()) == pytest.approx([0.05, 1.05])
    found = barrier(a, b, Task(model, [(X, Y)], likelihood="gaussian"), num_points=3, num_samples=8)
    assert all(math.isfinite(loss) for loss in found.loss)


def test_curve_round_trips_through_json() -> None:
    found = curve(8)
    assert LossCurve.from_json(found.as_json()) == found
    old = {name: value for name, value in found.as_json().items() if name not in {"label", "unit"}}
    assert LossCurve.from_json(old) == found
    assert LossCurve.from_json({**old, "metric": "brier"}).label == "brier"
    with pytest.raises(InvalidInputError, match="attributes of a loss curve"):
        LossCurve.from_json({"t": []})


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match=r"num_points: expected an odd number of points, .* got 4"):
        MarginalizedBarrier(num_points=4)
    with pytest.raises(ConfigError, match="num_points: expected a value greater than or equal to 3, got 1"):
        MarginalizedBarrier(num_points=1)
    with pytest.raises(ConfigError, match="num_samples: expected a value greater than or equal to 2, got 1"):
        MarginalizedBarrier(num_samples=1)
    with pytest.raises(ConfigError, match="num_pionts: unknown option; did you mean 'num_points'"):
        MarginalizedBarrier(num_pionts=3)  # type: ignore[call-arg]
