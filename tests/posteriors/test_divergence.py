"""Densities, divergences and distances of structured Gaussians, compared with dense covariance matrices."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rebasin_core as rc
from rebasin_core.testing.examples.posteriors import POSTERIORS


def gaussian(kind: type[rc.Posterior]) -> rc.posteriors.AbstractGaussianPosterior:
    (example,) = POSTERIORS[kind]()
    assert isinstance(example, rc.posteriors.AbstractGaussianPosterior)
    return example


GAUSSIANS = [
    rc.posteriors.DiagonalGaussianPosterior,
    rc.posteriors.LowRankGaussianPosterior,
    rc.posteriors.KroneckerGaussianPosterior,
    rc.posteriors.FullGaussianPosterior,
]


def permuted(posterior: rc.posteriors.AbstractGaussianPosterior) -> rc.posteriors.AbstractGaussianPosterior:
    """Return the posterior with all axes permuted at random."""
    tensors = {**posterior.mean, **posterior.buffers}
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    groups = {str(size): rc.Group(str(size), size) for size in sizes}
    layout = rc.Layout(groups, {n: tuple(rc.symmetry.Atom(s, str(s)) for s in t.shape) for n, t in tensors.items()})
    return posterior.permute(rc.Permutation.random(layout, generator=torch.Generator().manual_seed(4)))


def moments(q: rc.posteriors.AbstractGaussianPosterior) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([q.mean[name].flatten() for name in q.random_names]), q.covariance()


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_structured_divergence_equals_the_dense_one(kind: type[rc.Posterior]) -> None:
    first = gaussian(kind)
    second = permuted(first)
    dense = [torch.distributions.MultivariateNormal(*moments(q)) for q in (first, second)]
    expected = torch.distributions.kl_divergence(*dense).item()
    assert rc.kl_divergence(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_log_density_and_entropy_equal_the_dense_ones(kind: type[rc.Posterior]) -> None:
    q = gaussian(kind)
    dense = torch.distributions.MultivariateNormal(*moments(q))
    sample = q.sample((5,), generator=torch.Generator().manual_seed(0))
    flat = torch.cat([sample[name].reshape(5, -1) for name in q.random_names], dim=1)
    assert torch.allclose(q.log_prob(sample), dense.log_prob(flat), rtol=1e-9)
    assert q.entropy().item() == pytest.approx(dense.entropy().item(), rel=1e-10)


@pytest.mark.parametrize(
    "kind",
    [
        rc.posteriors.LowRankGaussianPosterior,
        rc.posteriors.KroneckerGaussianPosterior,
        rc.posteriors.FullGaussianPosterior,
    ],
)
def test_wasserstein_distance_equals_the_bures_formula(kind: type[rc.Posterior]) -> None:
    first = gaussian(kind)
    second = permuted(first)
    (m0, c0), (m1, c1) = moments(first), moments(second)
    values, vectors = torch.linalg.eigh(c0)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c1 @ root).clamp_min(0).sqrt().sum()
    fixed = sum((first.mean[n] - second.mean[n]).square().sum() for n in first.mean if n not in first.random_names)
    expected = ((m0 - m1).square().sum() + fixed + c0.trace() + c1.trace() - 2 * cross).sqrt().item()
    assert rc.wasserstein_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_divergence_between_different_representations_uses_dense_covariances() -> None:
    diagonal, low_rank = (
        gaussian(rc.posteriors.DiagonalGaussianPosterior),
        gaussian(rc.posteriors.LowRankGaussianPosterior),
    )
    dense = [torch.distributions.MultivariateNormal(*moments(q)) for q in (diagonal, low_rank)]
    expected = torch.distributions.kl_divergence(*dense).item()
    assert rc.kl_divergence(diagonal, low_rank) == pytest.approx(expected, rel=1e-9)


def test_prior_divergence_equals_torch_distributions() -> None:
    prior = rc.posteriors.GaussianPrior({"w": torch.ones(3)}, {"w": torch.tensor(2.0)})
    mean, stddev = torch.zeros(3), torch.full((3,), 0.5)
    normal = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, stddev), torch.distributions.Normal(torch.ones(3), 2 * torch.ones(3))
    )
    assert prior.kl({"w": mean}, {"w": stddev}).item() == pytest.approx(normal.sum().item())


def test_too_many_parameters_for_a_dense_matrix_raise() -> None:
    q = rc.posteriors.DiagonalGaussianPosterior({"w": torch.zeros(10_001)}, {"w": torch.ones(10_001)})
    with pytest.raises(rc.RebasinError, match=r"at most 10000 random parameters.*got 10001"):
        q.covariance()


def test_mixture_density_is_the_weighted_sum() -> None:
    parts = [
        rc.posteriors.DiagonalGaussianPosterior({"w": torch.full((1,), m)}, {"w": torch.ones(1)}) for m in (0.0, 3.0)
    ]
    mixture = rc.posteriors.MixturePosterior(parts, weights=torch.tensor([1.0, 3.0]))
    value = torch.tensor([1.0])
    normal = torch.distributions.Normal(torch.tensor([0.0, 3.0]), 1.0).log_prob(value).exp()
    expected = math.log(0.25 * normal[0].item() + 0.75 * normal[1].item())
    assert mixture.log_prob({"w": value}).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: rc.posteriors.LowRankGaussianPosterior(w, w, {"w": torch.ones(2, 3)}), "got a minimum of -1"),
        (
            lambda w: rc.posteriors.LowRankGaussianPosterior(w, {"w": torch.ones(3)}, {"w": torch.ones(2, 4)}),
            r"shape \(4,\)",
        ),
        (lambda w: rc.posteriors.FullGaussianPosterior.from_covariance(w, -torch.eye(3)), "a nonpositive leading"),
        (
            lambda w: rc.posteriors.FullGaussianPosterior.from_covariance(w, torch.eye(2)),
            r"covariance \[3, 3\], got \[2, 2\]",
        ),
        (
            lambda w: rc.posteriors.KroneckerGaussianPosterior(w, {"w": torch.ones(3, 3)}, {}, {"w": torch.ones(3)}),
            "orthonormal",
        ),
        (
            lambda w: rc.posteriors.KroneckerGaussianPosterior(w, {}, {}, {"w": torch.ones(3)}),
            "`left` of `w` has shape None",
        ),
        (lambda _: rc.posteriors.MixturePosterior([]), "at least one component"),
        (
            lambda _: rc.posteriors.UnitNoise((("w", 0),), "bernoulli", torch.tensor([0.0, 0.5])),
            r"keep probabilities in \(0, 1\]",
        ),
        (
            lambda w: rc.posteriors.MultiplicativeNoisePosterior(
                w, [rc.posteriors.UnitNoise((("w", 0),), "gaussian", torch.ones(2))]
            ),
            r"expected an axis 0 of length 2 in `w`, got shape \(3,\)",
        ),
        (lambda w: rc.posteriors.PointPosterior(w, buffers=w), r"got \['w'\] more than once"),
        (lambda w: rc.posteriors.GaussianPrior(w, {"w": torch.tensor(0.0)}), "a positive prior standard deviation of"),
    ],
)
def test_inconsistent_parts_raise(make: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    with pytest.raises(rc.RebasinError, match=message):
        make({"w": -torch.ones(3)})


def test_nested_groups_on_two_axes_cannot_permute_a_kronecker_basis() -> None:
    layout = rc.Layout(
        {"g": rc.Group("g", 2), "c": rc.Group("c", 3, within="g")},
        {"w": (rc.symmetry.Atom(2, "g"), rc.symmetry.Atom(3, "c"))},
    )
    q = rc.posteriors.KroneckerGaussianPosterior(
        {"w": torch.zeros(2, 3)}, {"w": torch.eye(2)}, {"w": torch.eye(3)}, {"w": torch.ones(2, 3)}
    )
    with pytest.raises(rc.RebasinError, match="'c' is nested in 'g', which acts on another axis"):
        q.permute(rc.Permutation.identity(layout))


def test_a_saved_mixture_loads_with_its_components(tmp_path: Path) -> None:
    (mixture, *_) = POSTERIORS[rc.posteriors.MixturePosterior]()
    assert isinstance(mixture, rc.posteriors.MixturePosterior)
    mixture.save(tmp_path / "q.safetensors")
    loaded = rc.load_posterior(tmp_path / "q.safetensors")
    assert isinstance(loaded, rc.posteriors.MixturePosterior)
    assert [q.kind for q in loaded.components] == [q.kind for q in mixture.components]
