"""Comparison with laplace-torch: equal densities and covariances, and permuting commutes with fitting."""

import pytest
import torch

import rebasin_core as rc

pytest.importorskip("laplace", reason="laplace-torch is not installed")
pytest.importorskip("rebasin_laplace", reason="rebasin-laplace is not installed")

from rebasin_laplace.examples import STRUCTURES, SUBSETS, data, fit, network

from rebasin_core.testing import Check, conformance_checks

EVERY = [(subset, structure) for subset in SUBSETS for structure in STRUCTURES]
INPUTS = torch.cat([x for x, _ in data()])


@pytest.mark.parametrize("check", conformance_checks("rebasin-laplace"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def element(model: torch.nn.Module, seed: int = 0) -> rc.Permutation:
    return rc.trace_spec(model, INPUTS).random_permutation(generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("subset", "structure"), EVERY)
def test_covariance_and_density_equal_those_of_the_library(subset: str, structure: str) -> None:
    laplace = fit(network(), subset, structure)
    posterior = rc.as_posterior(laplace)
    assert isinstance(posterior, rc.posteriors.AbstractGaussianPosterior)
    if structure == "kron":
        expected = laplace.posterior_precision.to_matrix(exponent=-1)
    elif structure == "diag":
        expected = torch.diag(laplace.posterior_variance)
    else:
        expected = laplace.posterior_covariance
    torch.testing.assert_close(posterior.covariance(), expected, rtol=1e-9, atol=1e-12)
    samples = posterior.sample((4,), generator=torch.Generator().manual_seed(0))
    flat = torch.cat([samples[name].reshape(4, -1) for name in posterior.random_names], dim=1)
    log_density = torch.stack([laplace.log_prob(row) for row in flat])
    torch.testing.assert_close(posterior.log_prob(samples), log_density, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("subset", "structure"), EVERY)
def test_permuting_commutes_with_fitting(subset: str, structure: str) -> None:
    model = network()
    g = element(model)
    permuted = rc.as_posterior(fit(model, subset, structure)).permute(g)
    refitted = rc.as_posterior(fit(g.apply(model), subset, structure))
    assert isinstance(permuted, rc.posteriors.AbstractGaussianPosterior)
    assert isinstance(refitted, rc.posteriors.AbstractGaussianPosterior)
    torch.testing.assert_close(permuted.covariance(), refitted.covariance(), rtol=1e-9, atol=1e-9)
    for name, tensor in refitted.mean.items():
        torch.testing.assert_close(permuted.mean[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("subset", "structure"), EVERY)
def test_writing_back_the_permuted_posterior_preserves_the_predictive(subset: str, structure: str) -> None:
    model = network()
    laplace = fit(model, subset, structure)
    before = laplace(INPUTS)
    variance = laplace._glm_predictive_distribution(INPUTS)[1]
    permuted = rc.as_posterior(laplace).permute(element(model))
    rc.write_back(laplace, permuted)
    assert not torch.equal(permuted.mean["0.weight"], network().state_dict()["0.weight"])
    torch.testing.assert_close(laplace(INPUTS), before, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laplace._glm_predictive_distribution(INPUTS)[1], variance, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("structure", ["diag", "full"])
def test_a_prior_precision_per_parameter_is_permuted(structure: str) -> None:
    model = network()
    count = sum(parameter.numel() for parameter in model.parameters())
    precision = 0.5 + torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    laplace = fit(model, "all", structure, prior_precision=precision)
    before, g = laplace(INPUTS), element(model)
    rc.write_back(laplace, rc.as_posterior(laplace).permute(g))
    torch.testing.assert_close(laplace(INPUTS), before, rtol=1e-9, atol=1e-9)
    assert not torch.equal(laplace.prior_precision, precision)


def test_a_prior_precision_per_layer_is_preserved() -> None:
    model = network()
    precision = torch.arange(1.0, 7.0, dtype=torch.float64)
    laplace = fit(model, "all", "kron", prior_precision=precision)
    before = laplace(INPUTS)
    rc.write_back(laplace, rc.as_posterior(laplace).permute(element(model)))
    torch.testing.assert_close(laplace(INPUTS), before, rtol=1e-9, atol=1e-9)


def test_fitted_objects_can_be_passed_to_match() -> None:
    model = network()
    g, first = element(model), fit(model, "all", "kron")
    second = fit(g.apply(model), "all", "kron")
    result = rc.match(first, second, rc.trace_spec(model, INPUTS), matcher="wasserstein")
    assert result.permutation == g.inverse()


def test_writing_back_an_unsupported_posterior_raises() -> None:
    laplace = fit(network(), "all", "kron")
    posterior = rc.as_posterior(laplace)
    assert isinstance(posterior, rc.posteriors.KroneckerGaussianPosterior)
    wider = rc.posteriors.KroneckerGaussianPosterior(
        posterior.mean, posterior.left, posterior.right, {n: 2 * s for n, s in posterior.scale.items()}
    )
    with pytest.raises(rc.RebasinError, match="in its eigenbasis to be those of the Laplace object, got others"):
        rc.write_back(laplace, wider)
    with pytest.raises(rc.RebasinError, match=r"expected a 'kronecker_gaussian' posterior .* got a 'point' posterior"):
        rc.write_back(laplace, rc.posteriors.PointPosterior(posterior.mean))


def test_an_object_that_is_not_fitted_raises() -> None:
    from laplace import Laplace

    laplace = Laplace(network(), "classification", subset_of_weights="all", hessian_structure="diag")
    with pytest.raises(rc.RebasinError, match="expected a fitted DiagLaplace, got one that is not fitted"):
        rc.as_posterior(laplace)
