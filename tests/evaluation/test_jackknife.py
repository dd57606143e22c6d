"""Jackknife, compared with explicit omission of each sample; constant outputs, compared with closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    LossEstimate,
    Predictions,
)
from rebasin_core.evaluation.constant import best_constant
from rebasin_core.evaluation.jackknife import LogMeanJackknife, influence


def logs(stddev: float = 1.0, samples: int = 6) -> torch.Tensor:
    return stddev * torch.randn(samples, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("stddev", [1e-3, 1.0, 30.0])
def test_pseudo_values_omit_each_sample(stddev: float) -> None:
    samples = logs(stddev)
    count = len(samples)
    found = LogMeanJackknife.of(samples)
    value = -(torch.logsumexp(samples, 0) - math.log(count))
    for omitted in range(count):
        others = torch.cat([samples[:omitted], samples[omitted + 1 :]])
        without = -(torch.logsumexp(others, 0) - math.log(count - 1))
        torch.testing.assert_close(found.pseudo_values[omitted], count * value - (count - 1) * without)
    shares = samples.softmax(0)
    torch.testing.assert_close(found.concentration, shares.square().sum(0))


def test_pseudo_values_are_finite_if_one_sample_dominates() -> None:
    samples = torch.tensor([[0.0], [-5000.0], [-6000.0]]).double()
    found = LogMeanJackknife.of(samples)
    assert bool(found.pseudo_values.isfinite().all())
    assert found.concentration.item() == pytest.approx(1.0)


def test_antithetic_pairs_are_omitted_together() -> None:
    samples = logs()
    zeros = torch.zeros(5, 1)
    paired = LossEstimate.of(Predictions(samples, zeros, zeros[:, 0], "accuracy", paired=True))
    units = samples.exp().unflatten(0, (-1, 2)).mean(1)
    count = len(units)
    without = [-(units.sum(0) - unit).div(count - 1).log().mean() for unit in units]
    values = torch.stack(without)
    stderr = math.sqrt((count - 1) / count * (values - values.mean()).square().sum().item())
    assert paired.stderr == pytest.approx(stderr)
    assert paired.bias == pytest.approx((count - 1) * (values.mean().item() - paired.loss))
    assert paired.effective_samples is not None
    shares = units / units.sum(0)
    torch.testing.assert_close(paired.effective_samples, 2 / shares.square().sum(0))


def test_variances_add_up_for_independent_noise() -> None:
    pseudo_values = LogMeanJackknife.of(logs(samples=9)).pseudo_values
    numbers = influence(pseudo_values, independent=True)
    assert len(numbers) == 8 * 5
    wanted = pseudo_values.var(0).sum() / 9 / 5**2
    assert numbers.square().mean() / len(numbers) == pytest.approx(wanted.item())


def test_intervals_use_students_distribution() -> None:
    samples = logs(0.01, samples=4)
    zeros = torch.zeros(5, 1)
    found = LossEstimate.of(Predictions(samples, zeros, zeros[:, 0], "accuracy"))
    low, high = found.interval(0.95)
    assert (high - low) / 2 == pytest.approx(3.182446 * found.stderr, rel=1e-6)
    assert (high + low) / 2 == pytest.approx(found.loss - found.bias)
    with pytest.raises(InvalidInputError, match=r"expected a level in \(0, 1\)"):
        found.interval(95)


def test_constants_in_closed_form() -> None:
    targets = torch.tensor([0, 0, 2, 0])
    constant = CategoricalLikelihood().constant(torch.zeros(1, 3), targets)
    torch.testing.assert_close(constant.softmax(0), torch.tensor([0.75, 0.0, 0.25]))
    numbers = torch.tensor([[1.0], [3.0]]).double()
    assert GaussianLikelihood().constant(torch.zeros(1, 1).double(), numbers).item() == 2.0
    likelihood = HeteroscedasticGaussianLikelihood()
    outputs = likelihood.constant(torch.zeros(1, 2).double(), numbers)
    mean, scale = likelihood.moments(outputs[None])
    assert (mean.item(), scale.item()) == pytest.approx((2.0, 1.0))


def test_numerical_constant_for_any_likelihood() -> None:
    targets = torch.tensor([[0.0], [4.0], [5.0]])

    def poisson(outputs: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return (counts * outputs - outputs.exp()).sum(-1)

    found = best_constant(poisson, torch.zeros(2, 1), targets)
    assert found is not None
    assert found.exp().item() == pytest.approx(3.0, abs=1e-4)
    assert found.dtype == torch.float32

    def stepped(outputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return (outputs > numbers).double().sum(-1)

    assert best_constant(stepped, torch.zeros(2, 1), targets) is None
