"""Barycenters compared with closed forms and with their defining equation."""

from __future__ import annotations

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import ConvergenceWarning, InvalidInputError


def dense(seed: int, size: int = 4) -> rc.posteriors.FullGaussianPosterior:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    mean = {"a": torch.randn(size - 1, generator=g).double(), "b": torch.randn(1, generator=g).double()}
    return rc.posteriors.FullGaussianPosterior.from_covariance(
        mean, root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)
    )


def square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: torch.Tensor = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    return root


def test_the_barycenter_of_dense_gaussians_satisfies_its_fixed_point_equation() -> None:
    posteriors, weights = [dense(seed) for seed in range(3)], [0.5, 0.3, 0.2]
    found = rc.barycenter(posteriors, weights)
    assert isinstance(found, rc.posteriors.FullGaussianPosterior)
    # S = sum_k w_k (S^1/2 S_k S^1/2)^1/2 (Agueh and Carlier 2011, theorem 6.1).
    covariance = found.covariance()
    root = square_root(covariance)
    expected = sum(w * square_root(root @ q.covariance() @ root) for w, q in zip(weights, posteriors, strict=True))
    torch.testing.assert_close(covariance, torch.as_tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.mean["a"], sum(w * q.mean["a"] for w, q in zip(weights, posteriors, strict=True)))


def test_the_barycenter_of_two_is_the_midpoint_of_the_geodesic() -> None:
    a, b = dense(0), dense(1)
    center = rc.barycenter([a, b])
    midpoint = rc.posteriors.geodesic(a, b)(0.5)
    assert isinstance(center, rc.posteriors.FullGaussianPosterior)
    assert isinstance(midpoint, rc.posteriors.FullGaussianPosterior)
    torch.testing.assert_close(center.covariance(), midpoint.covariance(), rtol=1e-5, atol=1e-6)


def test_samples_are_assigned_before_they_are_averaged() -> None:
    a = rc.posteriors.SamplesPosterior({"w": torch.tensor([[0.0], [10.0]])})
    b = rc.posteriors.SamplesPosterior({"w": torch.tensor([[11.0], [1.0]])})
    found = rc.barycenter([a, b])
    assert isinstance(found, rc.posteriors.SamplesPosterior)
    assert sorted(found.samples["w"].flatten().tolist()) == [0.5, 10.5]


def test_weights_by_pattern() -> None:
    points = [
        rc.posteriors.PointPosterior({"first.w": torch.tensor([v]), "last.w": torch.tensor([v])}) for v in (0.0, 1.0)
    ]
    found = rc.barycenter(points, {"first.*": [1, 3], "last.*": [1, 0]})
    assert (found.mean["first.w"].item(), found.mean["last.w"].item()) == (0.75, 0.0)


def test_the_barycenter_of_a_point_mass_and_a_gaussian_is_a_gaussian() -> None:
    a = rc.posteriors.PointPosterior({"w": torch.tensor([1.0])})
    b = rc.posteriors.DiagonalGaussianPosterior({"w": torch.tensor([3.0])}, {"w": torch.tensor([2.0])})
    found = rc.barycenter([a, b])
    assert (found.kind, found.mean["w"].item(), found.stddev["w"].item()) == ("diagonal_gaussian", 2.0, 1.0)


def test_incompatible_posteriors_and_weights_raise() -> None:
    a = rc.posteriors.PointPosterior({"w": torch.zeros(1)})
    b = rc.posteriors.PointPosterior({"w": torch.zeros(2)})
    with pytest.raises(InvalidInputError, match="at least one posterior"):
        rc.barycenter([])
    with pytest.raises(InvalidInputError, match="`w` has shape"):
        rc.barycenter([a, b])
    with pytest.raises(InvalidInputError, match="expected 1 nonnegative weights"):
        rc.barycenter([a], [0.5, 0.5])


@pytest.mark.parametrize("kind", ["dense Gaussians", "samples"])
def test_an_iteration_that_does_not_converge_warns(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [{"a": torch.randn(6, 3, generator=generator).double()} for _ in range(3)]
    posteriors: list[rc.Posterior]
    if kind == "samples":
        monkeypatch.setattr(rc.posteriors.samples, "_ITERATIONS", 1)
        posteriors = [rc.posteriors.SamplesPosterior(samples) for samples in sets]
    else:
        monkeypatch.setattr(rc.posteriors.full_gaussian, "_ITERATIONS", 1)
        posteriors = [dense(seed) for seed in range(3)]
    with pytest.warns(ConvergenceWarning, match=f"barycenter of {kind} did not converge in 1 iterations"):
        rc.barycenter(posteriors)
