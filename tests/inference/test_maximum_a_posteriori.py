from __future__ import annotations

import torch
from torch import nn

from rebasin_core.evaluation import GaussianLikelihood
from rebasin_core.inference import MAPInference, OptimizerSpec
from rebasin_core.posteriors import PointPosterior


def test_equals_ridge_regression(generator: torch.Generator) -> None:
    noise = 0.5
    prior = 0.8
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]).double() + noise * torch.randn(30, 1, generator=generator).double()
    ridge = torch.linalg.solve(x.T @ x / noise**2 + torch.eye(3).double() / prior**2, x.T @ y / noise**2)
    method = MAPInference(epochs=2000, prior_scale=prior, optimizer=OptimizerSpec(name="Adam", lr=0.01))
    posterior = method.fit(
        nn.Linear(3, 1, bias=False).double(), [(x, y)], likelihood=GaussianLikelihood(scale=noise)
    ).posterior
    assert isinstance(posterior, PointPosterior)
    torch.testing.assert_close(posterior.mean["weight"].T, ridge, atol=1e-4, rtol=0)


def test_a_flat_prior_is_maximum_likelihood() -> None:
    x = torch.ones(4, 1).double()
    method = MAPInference(epochs=500, prior_scale=float("inf"), optimizer=OptimizerSpec(name="Adam", lr=0.05))
    posterior = method.fit(nn.Linear(1, 1, bias=False).double(), [(x, 3 * x)], likelihood="gaussian").posterior
    torch.testing.assert_close(posterior.mean["weight"].item(), 3.0, atol=1e-3, rtol=0)
