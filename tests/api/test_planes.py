"""Planes through three posteriors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior

# A linear model w x with x = (1, 0) and (0, 1), targets 0 and Gaussian noise of scale 1: the loss is in closed form.
MODEL = nn.Linear(2, 1, bias=False).double()
TASK = rc.Task(
    MODEL, [(torch.eye(2).double(), torch.zeros(2, 1).double())], rc.evaluation.GaussianLikelihood(scale=1.0)
)


def gaussian(mean: tuple[float, float], stddev: float) -> DiagonalGaussianPosterior:
    weight = torch.tensor([mean], dtype=torch.float64)
    return DiagonalGaussianPosterior({"weight": weight}, {"weight": torch.full_like(weight, stddev)})


def predictive_loss(mean: torch.Tensor, variance: float) -> float:
    """Return the loss of the predictive, a Gaussian of variance s^2 + 1 for each example."""
    total = 1 + variance
    return 0.5 * math.log(2 * math.pi * total) + mean.square().mean().item() / (2 * total)


def test_the_plane_of_gaussians_is_that_of_their_barycenters_in_closed_form() -> None:
    posteriors = gaussian((0.0, 0.0), 0.5), gaussian((2.0, 0.0), 1.0), gaussian((0.0, 2.0), 0.75)
    plane = rc.loss_plane(*posteriors, TASK, num_points=3, margin=0.0, num_samples=4000)
    for row, v in enumerate(plane.v.tolist()):
        for column, u in enumerate(plane.u.tolist()):
            # Standard deviations are affine: 0.5 + 0.5 u / 2 + 0.25 v / 2.
            expected = predictive_loss(torch.tensor([u, v]), (0.5 + 0.25 * u + 0.125 * v) ** 2)
            error = plane.stderr[row, column].item()
            assert 0 < error < 0.1
            assert plane.loss[row, column].item() == pytest.approx(expected, abs=5 * error + 1e-3)


def test_posteriors_of_different_classes_span_a_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = gaussian((2.0, 0.0), 1.0)
    samples = SamplesPosterior.from_posterior(gaussian((1.0, 2.0), 0.75), 400, generator=generator)
    point = PointPosterior({"weight": torch.zeros(1, 2).double()})
    plane = rc.loss_plane(point, normal, samples, TASK, num_points=3, margin=0.0, num_samples=400)
    expected = [rc.score(q, TASK, num_samples=400).nll for q in (point, normal, samples)]
    assert plane.loss[0, 0].item() == pytest.approx(expected[0], abs=1e-9)
    assert plane.loss[0, 2].item() == pytest.approx(expected[1], abs=0.15)
    distance = (plane.points[2] - torch.stack([plane.u[1], plane.v[2]])).norm().item()
    assert distance < 0.1
    assert plane.loss[2, 1].item() == pytest.approx(expected[2], abs=0.15)


def test_single_networks_have_the_same_plane_with_samples() -> None:
    points = [
        PointPosterior(q.mean) for q in (gaussian((0.0, 0.5), 1), gaussian((2.0, 0.0), 1), gaussian((1.0, 2.0), 1))
    ]
    plain = rc.loss_plane(points[0], points[1], points[2], TASK, num_points=4)
    sampled = rc.loss_plane(points[0], points[1], points[2], TASK, num_points=4, num_samples=8)
    torch.testing.assert_close(sampled.loss, plain.loss)
    assert not sampled.stderr.any()


def test_the_means_of_posteriors_are_used_without_samples() -> None:
    posteriors = gaussian((0.0, 0.0), 0.5), gaussian((2.0, 0.0), 1.0), gaussian((0.0, 2.0), 0.75)
    plane = rc.loss_plane(*posteriors, TASK, num_points=2, margin=0.0)
    assert plane.loss[0, 1].item() == pytest.approx(predictive_loss(torch.tensor([2.0, 0.0]), 0.0))


def test_a_plane_needs_samples() -> None:
    posteriors = gaussian((0.0, 0.0), 0.5), gaussian((2.0, 0.0), 1.0), gaussian((0.0, 2.0), 0.75)
    with pytest.raises(InvalidInputError, match="at least one sample"):
        rc.loss_plane(*posteriors, TASK, num_samples=0)
