"""Training that diverges raises DivergenceError, not InvalidInputError: the input was valid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import DivergenceError

Batches = list[tuple[torch.Tensor, torch.Tensor]]
FAR = rc.inference.OptimizerSpec(name="SGD", lr=1e30)


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return model


def batches(count: int) -> Batches:
    inputs = torch.linspace(-1, 1, 16 * count).reshape(-1, 2)
    return list(zip(inputs.split(8), inputs.sum(1, keepdim=True).split(8), strict=True))


def test_divergence_is_not_invalid_input() -> None:
    with pytest.raises(DivergenceError, match=r"the loss in epoch 1 is not finite\. Lower the learning rate") as error:
        rc.inference.MAPInference(epochs=1, optimizer=FAR).fit(network(), batches(3), likelihood="gaussian")
    assert isinstance(error.value, rc.RebasinError)
    assert isinstance(error.value, ArithmeticError)
    assert not isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    "method",
    [
        rc.inference.MeanFieldVI(epochs=2, optimizer=FAR),
        rc.inference.MeanFieldVI(epochs=2, optimizer=FAR, estimator="weights", sticking_the_landing=True),
        rc.inference.MeanFieldVI(epochs=2, optimizer=FAR, stochastic=["2.weight"]),
        rc.inference.DeepEnsemble(epochs=2, members=2, optimizer=FAR),
        rc.inference.SnapshotEnsemble(epochs=2, members=2, optimizer=FAR),
        rc.inference.SWAG(epochs=4, rank=2, optimizer=FAR),
        rc.inference.SGLD(epochs=2, burn_in=0, learning_rate=1e30),
        rc.inference.MCDropout(epochs=2, optimizer=FAR),
    ],
    ids=repr,
)
def test_every_method_detects_divergence(method: rc.Inference) -> None:
    with pytest.raises(DivergenceError, match="training diverged"):
        method.fit(network(), batches(3), likelihood="gaussian")


def test_divergence_in_the_last_step_is_detected() -> None:
    method = rc.inference.MAPInference(epochs=1, optimizer=rc.inference.OptimizerSpec(name="SGD", lr=1e38))
    with pytest.raises(DivergenceError, match=r"`0\.weight` is not finite after the last epoch"):
        method.fit(network(), batches(1), likelihood=rc.evaluation.GaussianLikelihood(scale=0.1))


def test_a_prior_at_parameters_that_diverged_is_nan() -> None:
    prior = rc.posteriors.GaussianPrior.isotropic(["w"], 1.0)
    assert math.isnan(prior.log_prob({"w": torch.tensor([math.nan])}).item())
