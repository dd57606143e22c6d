"""Copies of defects in other libraries, each of which a law of the conformance kit must detect.

The laws are those that every registered representation and adapter satisfies; see `rebasin_core.testing`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.testing.examples.posteriors import POSTERIORS
from rebasin_core.testing.law import LAWS

LAW = {law.name: law.trial for family in ("posterior", "posterior_adapter") for law in LAWS[family]}


def good(kind: type[rc.Posterior]) -> Any:
    """Return a posterior that satisfies all laws."""
    return POSTERIORS[kind]()[0]


def broken(posterior: Any, **methods: Any) -> Any:
    """Return the posterior with methods replaced by defective ones."""
    kind = type(f"Broken{type(posterior).__name__}", (type(posterior),), methods)
    posterior.__class__ = kind
    return posterior


def sample_with_the_wrong_triangle() -> Any:
    """Samples have a wrong covariance: laplace-torch 0.2.2 multiplied by the transpose of the factor."""
    q = good(rc.posteriors.FullGaussianPosterior)
    names, sizes = q.random_names, [q.mean[n].numel() for n in q.random_names]
    tril = torch.linalg.cholesky(q.covariance())

    def _from_noise(self: Any, noise: Any) -> dict[str, torch.Tensor]:
        flat = noise[""] @ tril  # should be the transpose
        parts = flat.split(sizes, dim=-1)
        return {
            n: self.mean[n] + p.reshape(*p.shape[:-1], *self.mean[n].shape) for n, p in zip(names, parts, strict=True)
        }

    return broken(q, _from_noise=_from_noise)


def low_rank_noise_for_every_layer() -> Any:
    """No covariance between layers: torch-uncertainty draws separate low-rank noise of SWAG for each tensor."""

    def _from_noise(self: Any, noise: Any) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        samples: dict[str, torch.Tensor] = {}
        for name, mean in self._fields["mean"].items():
            own = torch.randn(noise[""].shape, generator=generator, dtype=mean.dtype)
            rows = torch.tensordot(own, self._fields["factor"][name], dims=1)
            samples[name] = mean + self._fields["diagonal"][name] * noise[name] + rows
        return samples

    return broken(good(rc.posteriors.LowRankGaussianPosterior), _from_noise=_from_noise)


def variance_instead_of_standard_deviation() -> Any:
    """The standard deviation of samples is the variance: an old SWAG implementation (drbayes)."""

    def _from_noise(self: Any, noise: Any) -> dict[str, torch.Tensor]:
        return {n: m + self._fields["stddev"][n].square() * noise[n] for n, m in self._fields["mean"].items()}

    return broken(good(rc.posteriors.DiagonalGaussianPosterior), _from_noise=_from_noise)


def empty_sample_shape_fails() -> Any:
    """An empty sample shape raises: posteriors 0.1.3, dense Laplace."""

    def draw_noise(self: Any, sample_shape: Any = (), *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        (count,) = sample_shape
        return {"": torch.randn((count, self.rows), generator=generator, dtype=self.dtype)}

    return broken(good(rc.posteriors.FullGaussianPosterior), draw_noise=draw_noise)


def nested_layers_are_not_sampled() -> Any:
    """Samples lack parameters: torch-uncertainty's StochasticModel samples top-level layers only."""

    def _from_noise(self: Any, noise: Any) -> dict[str, torch.Tensor]:
        samples = rc.posteriors.DiagonalGaussianPosterior._from_noise(self, noise)
        samples.pop("scale")
        return samples

    return broken(good(rc.posteriors.DiagonalGaussianPosterior), _from_noise=_from_noise)


def state_is_returned() -> Any:
    """Returned tensors share memory with the state: posteriors 0.1.3 (a step), blitz (means)."""
    return broken(good(rc.posteriors.DiagonalGaussianPosterior), _mean=lambda self: self._fields["mean"])


def prior_is_not_saved() -> Any:
    """The prior is lost after loading: bayesian-torch stores it in buffers that are not persistent."""
    q = good(rc.posteriors.DiagonalGaussianPosterior)
    whole = q.as_tensors()
    saved = {name: tensor for name, tensor in whole.items() if not name.startswith("prior")}
    return broken(q, as_tensors=lambda _: saved)


def prior_is_not_permuted() -> Any:
    """The prior of a parameter is not permuted with it: a Laplace object of which only `mean` is permuted."""
    q = good(rc.posteriors.DiagonalGaussianPosterior)

    def permute(self: Any, permutation: rc.Permutation) -> Any:
        permuted = rc.posteriors.DiagonalGaussianPosterior(self.mean, self.stddev, buffers=self.buffers).permute(
            permutation
        )
        frozen = set(self.mean) - set(self.random_names)
        return rc.posteriors.DiagonalGaussianPosterior(
            {n: t for n, t in permuted.mean.items() if n not in frozen},
            {n: t for n, t in permuted.stddev.items() if n not in frozen},
            fixed={n: permuted.mean[n] for n in frozen},
            buffers=permuted.buffers,
            prior=self.prior,
        )

    return broken(q, permute=permute)


def buffers_are_not_permuted() -> Any:
    """Normalization statistics are not permuted: a common error with Git Re-Basin."""

    def permute(self: Any, permutation: rc.Permutation) -> Any:
        permuted = rc.posteriors.PointPosterior.permute(self, permutation)
        return rc.posteriors.PointPosterior(permuted.mean, buffers=self.buffers)

    return broken(good(rc.posteriors.PointPosterior), permute=permute)


def flat_vectors_in_sorted_order() -> Any:
    """State in the order of sorted names, read in the given order: dense states of posteriors, flattened by optree."""
    q = good(rc.posteriors.DiagonalGaussianPosterior)

    def from_tensors(tensors: dict[str, torch.Tensor]) -> Any:
        means = {n.removeprefix("mean/"): t for n, t in tensors.items() if n.startswith("mean/")}
        flat = torch.cat([means[n].flatten() for n in sorted(means)])
        parts = flat.split([t.numel() for t in means.values()])
        wrong = {n: p.reshape(t.shape) for p, (n, t) in zip(parts, means.items(), strict=True)}
        rest = {n: t for n, t in tensors.items() if not n.startswith("mean/")}
        return rc.posteriors.DiagonalGaussianPosterior.from_tensors({
            **{f"mean/{n}": t for n, t in wrong.items()},
            **rest,
        })

    return broken(q, from_tensors=staticmethod(from_tensors))


def global_noise() -> Any:
    """Noise from the global generator instead of the given one: most modules of Bayesian layers."""

    def draw_noise(self: Any, sample_shape: Any = (), *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        del generator
        return {n: torch.randn((*sample_shape, *t.shape), dtype=t.dtype) for n, t in self._fields["mean"].items()}

    return broken(good(rc.posteriors.DiagonalGaussianPosterior), draw_noise=draw_noise)


def divergence_as_a_mean() -> Any:
    """A density that is a mean over entries: bayesian-torch's divergence."""

    def log_prob(self: Any, parameters: Any) -> torch.Tensor:
        whole = rc.posteriors.DiagonalGaussianPosterior.log_prob(self, parameters)
        count = sum(t.numel() for t in self._fields["mean"].values())
        return torch.as_tensor(whole / count + parameters["weight"][..., 0, 0])

    return broken(good(rc.posteriors.DiagonalGaussianPosterior), log_prob=log_prob)


DEFECTS = {
    "covariance_of_samples": [sample_with_the_wrong_triangle, low_rank_noise_for_every_layer],
    "moments_of_samples": [variance_instead_of_standard_deviation],
    "complete_samples": [empty_sample_shape_fails, nested_layers_are_not_sampled],
    "no_aliasing": [state_is_returned],
    "permuted_auxiliary_tensors": [prior_is_not_saved, prior_is_not_permuted],
    "permuted_moments": [buffers_are_not_permuted],
    "order_of_names": [flat_vectors_in_sorted_order],
    "reproducibility": [global_noise],
    "invariant_density": [divergence_as_a_mean],
}
CASES = [(law, make) for law, every in DEFECTS.items() for make in every]


@pytest.mark.parametrize(("law", "make"), CASES, ids=[make.__name__ for _, make in CASES])
def test_law_detects_the_defect(law: str, make: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # ruff: ignore[pytest-raises-too-broad] - as in the kit
        LAW[law](make(), tmp_path)
    assert not isinstance(caught.value, AttributeError | NameError), f"the copy of the defect is wrong: {caught.value}"


@pytest.mark.parametrize(("law", "make"), CASES, ids=[make.__name__ for _, make in CASES])
def test_law_holds_without_the_defect(law: str, make: Any, tmp_path: Path) -> None:
    kind = type(make()).__mro__[1]
    LAW[law](good(kind), tmp_path)


def test_write_back_that_omits_the_model_is_detected(tmp_path: Path) -> None:
    """Only `mean` of the object is written, but laplace-torch predicts with the parameters of its network."""

    class Forgetful(rc.PosteriorAdapter, rc.posteriors.AbstractWriteBack):
        handles = ("types.SimpleNamespace",)

        @override
        def to_posterior(self, source: Any, *, model: nn.Module | None = None) -> rc.Posterior:
            return rc.posteriors.DiagonalGaussianPosterior(
                {n: p.detach().clone() for n, p in source.network.named_parameters()},
                {n: torch.full_like(p, 0.1) for n, p in source.network.named_parameters()},
            )

        @override
        def write_back(self, source: Any, posterior: rc.Posterior, *, model: nn.Module | None = None) -> None:
            source.mean = posterior.mean

    source = SimpleNamespace(network=nn.Linear(3, 4))
    with pytest.raises(rc.RebasinError, match="mean after writing back"):
        LAW["write_back_round_trip"]((Forgetful(), source), tmp_path)
