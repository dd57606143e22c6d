"""Against the library posteriors itself."""

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


def test_momenta_move_with_the_parameters() -> None:
    (*_, state) = states()
    spec = rc.table_spec({"weight": "units, -", "bias": "units"}, dict(state.params))
    g = spec.random_permutation(generator=torch.Generator().manual_seed(0))
    moved = permute_state(state, g)
    for field in ("params", "momenta"):
        expected = g.apply(dict(getattr(state, field)))
        for name, tensor in expected.items():
            assert torch.equal(getattr(moved, field)[name], tensor)


def test_states_of_a_chain_are_samples() -> None:
    state = states()[1]
    posterior = samples_of([state, state])
    assert posterior.num_samples == 2
    with pytest.raises(rc.RebasinError, match="expected states over the same parameters, got 0"):
        samples_of([])


def test_chain_and_ours_agree_on_linear_regression() -> None:
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


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="expected `burn_in` below `epochs`, got 20 and 10"):
        PosteriorsSGLD(epochs=10)
    with pytest.raises(ConfigError, match="friction: unknown option"):
        PosteriorsSGLD(friction=0.1)


def test_divergence_is_an_error() -> None:
    data = [(torch.ones(4, 2), torch.ones(4, 1))]
    with pytest.raises(DivergenceError, match="the loss in epoch"):
        PosteriorsVI(epochs=5, learning_rate=1e30).fit(torch.nn.Linear(2, 1), data, likelihood="gaussian")
