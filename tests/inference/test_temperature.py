"""In every method, the temperature tempers likelihood and prior, and the KL weight the likelihood only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.inference import MeanFieldVI, OptimizerSpec, ScheduleSpec

PRIOR = 0.3
COUNT = 5


def exact(temperature: float, kl_weight: float) -> tuple[float, float]:
    """Return mean and standard deviation of (p(D | w)^(1 / kl_weight) p(w))^(1 / T) for 5 observations y = 1."""
    precision = COUNT / kl_weight + 1 / PRIOR**2
    return COUNT / kl_weight / precision, math.sqrt(temperature / precision)


def fitted(method: rc.Inference) -> tuple[float, float]:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ones = torch.ones(COUNT, 1).double()
    likelihood = rc.evaluation.GaussianLikelihood(scale=1.0)
    posterior = method.fit(model, list(zip(ones.split(4), ones.split(4), strict=True)), likelihood=likelihood).posterior
    return posterior.mean["weight"].item(), posterior.stddev["weight"].item()


def test_the_targets_have_a_closed_form() -> None:
    assert exact(0.1, 1.0) == pytest.approx((0.310, 0.079), abs=1e-3)
    assert exact(1.0, 0.1) == pytest.approx((0.818, 0.128), abs=1e-3)


@pytest.mark.parametrize(("temperature", "kl_weight"), [(0.1, 1.0), (1.0, 0.1), (0.3, 0.5), (2.0, 1.0)])
@pytest.mark.parametrize("options", [{}, {"estimator": "weights", "sticking_the_landing": True}], ids=["local", "stl"])
def test_variational_inference_finds_the_exact_target(
    temperature: float, kl_weight: float, options: dict[str, Any]
) -> None:
    method = MeanFieldVI(
        epochs=250,
        prior_scale=PRIOR,
        initial_stddev=0.1,
        temperature=temperature,
        kl_weight=kl_weight,
        optimizer=OptimizerSpec(name="Adam", lr=0.05),
        schedule=ScheduleSpec(name="CosineAnnealingLR", T_max=250),
        **options,
    )
    mean, stddev = exact(temperature, kl_weight)
    assert fitted(method) == pytest.approx((mean, stddev), abs=0.25 * stddev)


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_chains_have_the_same_cold_target(name: str) -> None:
    rate = {"sgld": 0.01, "sghmc": 0.002}[name]
    method = rc.Inference.of({
        "name": name, "epochs": 500, "burn_in": 100, "learning_rate": rate, "chains": 16, "prior_scale": PRIOR,
        "temperature": 0.1,
    })  # fmt: skip
    mean, stddev = exact(0.1, 1.0)
    assert fitted(method) == pytest.approx((mean, stddev), abs=0.25 * stddev)


def test_the_objective_is_the_entropy_weighted_elbo() -> None:
    """Compared with the formula, for a network output that does not depend on the weight."""
    temperature, weight, scale = 0.2, 0.7, 0.1
    method = MeanFieldVI(
        epochs=1, prior_scale=PRIOR, initial_stddev=scale, temperature=temperature, kl_weight=weight,
        estimator="weights", optimizer=OptimizerSpec(name="SGD", lr=1e-12),
    )  # fmt: skip
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.4)
    # For zero inputs the output is 0 for any weight.
    data = [(torch.zeros(COUNT, 1).double(), torch.zeros(COUNT, 1).double())]
    found = method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=1.0)).history[0]
    expected_log_prior = -0.5 * (0.4**2 + scale**2) / PRIOR**2 - math.log(PRIOR) - 0.5 * math.log(2 * math.pi)
    entropy = 0.5 * math.log(2 * math.pi * math.e * scale**2)
    likelihood = 0.5 * math.log(2 * math.pi)
    assert found == pytest.approx(likelihood - weight / COUNT * (expected_log_prior + temperature * entropy), rel=1e-9)


def test_a_kl_weight_is_equivalent_to_a_temperature_under_a_wider_prior() -> None:
    """KL weight T with prior scale s is the cold posterior with prior scale s / sqrt(T)."""
    weight = 0.1
    precision = (COUNT + weight / PRIOR**2) / weight
    assert exact(1.0, weight) == pytest.approx((COUNT / weight / precision, precision**-0.5))


def test_a_temperature_of_zero_raises() -> None:
    with pytest.raises(ConfigError, match="temperature: expected a value greater than 0, got 0"):
        MeanFieldVI(temperature=0.0)


@pytest.mark.parametrize("scale", [PRIOR, {"0.*": 0.2, "*": 0.5}])
def test_as_map_has_the_regularization_of_the_means(scale: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    x = torch.randn(8, 2, generator=generator).double()
    method = MeanFieldVI(
        epochs=30, prior_scale=scale, kl_weight=0.2, temperature=0.5, initial_stddev=1e-9,
        optimizer=OptimizerSpec(name="SGD", lr=0.01),
    )  # fmt: skip
    means = method.fit(model, [(x, x.sum(1, keepdim=True))], likelihood="gaussian").posterior.mean
    points = method.as_map().fit(model, [(x, x.sum(1, keepdim=True))], likelihood="gaussian").posterior.mean
    for name, tensor in points.items():
        torch.testing.assert_close(tensor, means[name], atol=1e-6, rtol=0)
    assert not torch.allclose(means["0.weight"], model.state_dict()["0.weight"], atol=0.05)


def test_as_map_requires_a_centered_prior() -> None:
    with pytest.raises(InvalidInputError, match=r"expected a centered prior for MAP, .* omit `moped`"):
        MeanFieldVI(moped=0.1).as_map()


def test_an_empty_list_of_random_parameters_raises() -> None:
    with pytest.raises(ConfigError, match=r"stochastic: .* at least 1 item"):
        MeanFieldVI(stochastic=())
