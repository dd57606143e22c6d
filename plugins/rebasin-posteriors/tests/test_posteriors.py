"""Conversion of states, and inference compared with exact posteriors; needs the library posteriors."""

import pytest
import torch

import rebasin_core as rc

pytest.importorskip("posteriors", reason="posteriors is not installed")
pytest.importorskip("rebasin_posteriors", reason="rebasin-posteriors is not installed")

from rebasin_posteriors import PosteriorsSGLD, PosteriorsVI, permute_state, samples_of
from rebasin_posteriors.examples import states

from rebasin_core.errors import ConfigError, DivergenceError
from rebasin_core.testing import Check, conformance_checks


@pytest.mark.parametrize("check", conformance_checks("rebasin-posteriors"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def test_momenta_are_permuted_with_the_parameters() -> None:
    (*_, state) = states()
    spec = rc.table_spec({"weight": "units, -", "bias": "units"}, dict(state.params))
    g = spec.random_permutation(generator=torch.Generator().manual_seed(0))
    permuted = permute_state(state, g)
    for field in ("params", "momenta"):
        expected = g.apply(dict(getattr(state, field)))
        for name, tensor in expected.items():
            assert torch.equal(getattr(permuted, field)[name], tensor)


def test_states_of_a_chain_are_samples() -> None:
    state = states()[1]
    posterior = samples_of([state, state])
    assert posterior.num_samples == 2
    with pytest.raises(rc.RebasinError, match="expected states over the same parameters, got 0"):
        samples_of([])


def test_sgld_samples_the_exact_posterior_of_linear_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 2, generator=generator).double()
    y = x @ torch.tensor([[0.7], [-0.4]]).double() + 0.5 * torch.randn(32, 1, generator=generator).double()
    covariance = torch.linalg.inv(x.T @ x / 0.25 + torch.eye(2).double() / 0.64)
    model = torch.nn.Linear(2, 1, bias=False).double()
    method = PosteriorsSGLD(epochs=6000, burn_in=500, learning_rate=0.004, prior_scale=0.8)
    found = method.fit(model, [(x, y)], likelihood=rc.evaluation.GaussianLikelihood(scale=0.5)).posterior
    mean = (covariance @ x.T @ y / 0.25).squeeze(1)
    torch.testing.assert_close(found.mean["weight"][0], mean, atol=0.05, rtol=0)
    torch.testing.assert_close(found.stddev["weight"][0], covariance.diag().sqrt(), rtol=0.3, atol=0)


def test_invalid_options_raise() -> None:
    with pytest.raises(ConfigError, match="expected `burn_in` below `epochs`, got 20 and 10"):
        PosteriorsSGLD(epochs=10)
    with pytest.raises(ConfigError, match="friction: unknown option"):
        PosteriorsSGLD(friction=0.1)


def test_divergence_raises() -> None:
    data = [(torch.ones(4, 2), torch.ones(4, 1))]
    with pytest.raises(DivergenceError, match="the loss in epoch"):
        PosteriorsVI(epochs=5, learning_rate=1e30).fit(torch.nn.Linear(2, 1), data, likelihood="gaussian")


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_unequal_batches_and_cold_posteriors_have_the_exact_target(temperature: float) -> None:
    # Each weight has 5 observations.
    inputs = torch.eye(2).double().repeat(5, 1)
    precision = 5 + 1 / 0.3**2
    mean, stddev = 5 / precision, (temperature / precision) ** 0.5
    data = [(part, torch.ones(len(part), 1).double()) for part in inputs.split(8)]
    methods: list[rc.Inference] = [
        PosteriorsSGLD(epochs=1500, burn_in=100, learning_rate=0.05, prior_scale=0.3, temperature=temperature),
        PosteriorsVI(epochs=800, learning_rate=0.01, initial_stddev=0.1, prior_scale=0.3, temperature=temperature),
    ]
    for method in methods:
        model = torch.nn.Linear(2, 1, bias=False).double()
        found = method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=1.0)).posterior
        assert ((found.mean["weight"] - mean).abs() < 0.35 * stddev).all()
        torch.testing.assert_close(found.stddev["weight"], torch.full((1, 2), stddev).double(), rtol=0.25, atol=0)


def test_a_small_batch_is_weighted_by_its_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 2, generator=generator).double()
    y = x @ torch.tensor([[1.0], [-0.5]]).double() + 0.5 * torch.randn(33, 1, generator=generator).double()
    x[-1] = 1.0
    y[-1] = 2.0
    covariance = torch.linalg.inv(x.T @ x / 0.25 + torch.eye(2).double())
    mean = (covariance @ x.T @ y / 0.25).squeeze(1)
    data = list(zip(x.split(32), y.split(32), strict=True))
    method = PosteriorsSGLD(epochs=1500, burn_in=300, learning_rate=0.01)
    model = torch.nn.Linear(2, 1, bias=False).double()
    found = method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.5)).posterior
    error = (found.mean["weight"][0] - mean).abs() / covariance.diag().sqrt()
    assert error.max().item() < 0.5
