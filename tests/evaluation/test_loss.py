from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from typing_extensions import override

from rebasin_core import Task, barrier
from rebasin_core.errors import InvalidInputError, UnknownNameError
from rebasin_core.evaluation import (
    CategoricalLikelihood,
    FunctionalModel,
    GaussianLikelihood,
    HeldTask,
    LossEstimate,
    Predictions,
    Sampling,
    held_batches,
    predict,
)
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import HeteroscedasticGaussianLikelihood
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior


def predictive_loss(num_samples: int, seed: int) -> LossEstimate:
    """Predictive loss of y = theta x with theta ~ N(0.5, 0.8^2) and noise 0.6, on three examples."""
    q = DiagonalGaussianPosterior(
        {"weight": torch.full((1, 1), 0.5).double()}, {"weight": torch.full((1, 1), 0.8).double()}
    )
    model = FunctionalModel(nn.Linear(1, 1, bias=False), dtype=torch.float64)
    x = torch.tensor([[1.0], [-2.0], [0.5]]).double()
    y = torch.tensor([[1.0], [0.3], [-0.4]]).double()
    batches = held_batches(model, [(x, y)])
    likelihood = GaussianLikelihood(scale=0.6)
    return LossEstimate.of(predict(q, HeldTask(model, batches, likelihood), Sampling(num_samples, seed)))


def exact_predictive_loss() -> float:
    total = 0.0
    for x, y in ((1.0, 1.0), (-2.0, 0.3), (0.5, -0.4)):
        variance = (0.8 * x) ** 2 + 0.6**2
        total += 0.5 * (y - 0.5 * x) ** 2 / variance + 0.5 * math.log(2 * math.pi * variance)
    return total / 3


@pytest.mark.statistics
def test_stated_errors_cover_the_closed_form() -> None:
    # 95 % of 200 repetitions: 190 +- 3.1 are expected in the interval; five of these are allowed on either side.
    # Seeds are fixed.
    inside, bias = 0, []
    for seed in range(200):
        found = predictive_loss(64, seed)
        inside += abs(found.loss - found.bias - exact_predictive_loss()) < 1.96 * found.stderr
        bias.append(found.loss - exact_predictive_loss())
    assert 174 <= inside <= 200
    mean_bias = sum(bias) / len(bias)
    assert mean_bias > 0
    assert predictive_loss(64, 0).bias == pytest.approx(mean_bias, rel=1.0)


def test_predictive_loss_converges_to_the_closed_form() -> None:
    found = predictive_loss(20_000, 1)
    assert abs(found.loss - exact_predictive_loss()) < 5 * found.stderr + found.bias
    assert found.gibbs > found.loss


def test_one_sample_has_an_unknown_error() -> None:
    found = predictive_loss(1, 0)
    assert math.isnan(found.stderr)
    assert found.bias == 0.0
    assert found.loss == pytest.approx(found.gibbs)


def test_infinite_losses_raise() -> None:
    log_prob = torch.tensor([[-1.0, -float("inf")]])
    with pytest.raises(InvalidInputError, match="non-finite loss at the posterior for 1 of 2 examples"):
        LossEstimate.of(Predictions(log_prob, torch.zeros(2, 1), torch.zeros(2), "accuracy"))


def test_categorical_equals_cross_entropy(generator: torch.Generator) -> None:
    logits, targets = torch.randn(7, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    likelihood = CategoricalLikelihood()
    torch.testing.assert_close(-likelihood.log_prob(logits, targets).mean(), nn.CrossEntropyLoss()(logits, targets))


@pytest.mark.parametrize(
    ("likelihood", "targets"),
    [
        (CategoricalLikelihood(), torch.tensor([0, 1, 2, 3])),
        (GaussianLikelihood(), torch.linspace(-1, 1, 16).reshape(4, 4)),
        (HeteroscedasticGaussianLikelihood(), torch.linspace(-1, 1, 8).reshape(4, 2)),
    ],
)
def test_assess_equals_the_separate_methods(
    likelihood: Likelihood, targets: torch.Tensor, generator: torch.Generator
) -> None:
    outputs = 3 * torch.randn(4, 4, generator=generator)
    likelihood.check(outputs, targets)
    together = likelihood.assess(outputs, targets)
    alone = likelihood.log_prob(outputs, targets), likelihood.prediction(outputs), likelihood.entropy(outputs)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "from 0 to 2 .* got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "got -1 to 0"),
        (torch.zeros(2, 3), torch.zeros(2), "for regression use `gaussian`"),
        (torch.zeros(2, 3, 4), torch.tensor([0, 1]), r"expected logits \[N, K\]"),
    ],
)
def test_invalid_targets_raise(outputs: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        CategoricalLikelihood().check(outputs, targets)


class TupleModel(nn.Module):
    @override
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_models_and_data_that_do_not_match_raise() -> None:
    linear = nn.Linear(2, 3)
    data = [(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(InvalidInputError, match="expected the model to return one tensor, got tuple"):
        barrier({}, {}, Task(TupleModel(), data), num_points=3)
    with pytest.raises(InvalidInputError, match="cannot be run on inputs of shape"):
        barrier(linear, linear, Task(linear, [(torch.zeros(4, 5), data[0][1])]), num_points=3)
    with pytest.raises(InvalidInputError, match="got an empty dataset"):
        barrier(linear, linear, Task(linear, []), num_points=3)
    with pytest.raises(InvalidInputError, match="expected batches"):
        barrier(linear, linear, Task(linear, [torch.zeros(4, 2)]), num_points=3)
    with pytest.raises(InvalidInputError, match="missing: `bias`"):
        barrier({"weight": linear.weight}, {"weight": linear.weight}, Task(linear, data), num_points=3)
    with pytest.raises(UnknownNameError, match="did you mean 'categorical'"):
        Likelihood.of("categoric")


def test_data_are_iterated_only_once() -> None:
    linear = nn.Linear(2, 3)
    once = iter([(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))])
    assert barrier(linear, linear, Task(linear, once), num_points=3).height == 0.0


def test_half_precision_networks_run_on_their_device(device: torch.device) -> None:
    linear = nn.Linear(2, 3).to(device, torch.bfloat16)
    data = [(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))]
    point = PointPosterior.from_module(linear)
    assert barrier(point, point, Task(linear, data), num_points=3).height == 0.0
