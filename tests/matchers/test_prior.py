"""Priors that permutations change."""

import warnings

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import PriorWarning
from rebasin_core.testing.cases import gaussian, network


def with_prior(scale: dict[str, torch.Tensor]) -> rc.posteriors.DiagonalGaussianPosterior:
    q = gaussian(1)
    prior = rc.posteriors.GaussianPrior({name: torch.zeros(()) for name in scale}, scale)
    return rc.posteriors.DiagonalGaussianPosterior(q.mean, q.stddev, prior=prior)


def test_a_prior_that_differs_between_units_gives_a_warning_and_is_permuted() -> None:
    case = network()
    scale = {
        n: torch.rand(t.shape, generator=torch.Generator().manual_seed(0)) + 0.5 for n, t in gaussian(1).mean.items()
    }
    candidate = with_prior(scale)
    with pytest.warns(PriorWarning, match="differs between units of a group"):
        result = rc.match(gaussian(0), candidate, case.spec)
    aligned = result.apply(candidate)
    assert isinstance(aligned, rc.posteriors.DiagonalGaussianPosterior)
    assert aligned.prior is not None
    before = candidate.prior
    assert before is not None
    assert aligned.prior.kl(aligned.mean, aligned.stddev).item() == pytest.approx(
        before.kl(candidate.mean, candidate.stddev).item(), rel=1e-9
    )


def test_an_exchangeable_prior_gives_no_warning() -> None:
    case = network()
    candidate = with_prior({n: torch.tensor(0.5) for n in gaussian(1).mean})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.match(gaussian(0), candidate, case.spec)
