from __future__ import annotations

import pytest
import torch
from torch.distributions import Distribution, Independent, Normal

from rebasin_core import kl_divergence, wasserstein_distance
from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, geodesic


def gaussian(seed: int) -> DiagonalGaussianPosterior:
    g = torch.Generator().manual_seed(seed)
    mean = {"w": torch.randn(3, 2, generator=g, dtype=torch.float64), "b": torch.randn(3, generator=g).double()}
    stddev = {name: 0.1 + torch.rand(t.shape, generator=g, dtype=torch.float64) for name, t in mean.items()}
    return DiagonalGaussianPosterior(mean, stddev)


def oracle(q: DiagonalGaussianPosterior) -> Distribution:
    mean, stddev = (torch.cat([part[name].flatten() for name in ("w", "b")]) for part in (q.mean, q.stddev))
    return Independent(Normal(mean, stddev), 1)


def test_density_and_entropy_equal_torch_distributions(generator: torch.Generator) -> None:
    q = gaussian(0)
    sample = q.sample((5,), generator=generator)
    flat = torch.cat([sample["w"].flatten(1), sample["b"]], 1)
    torch.testing.assert_close(q.log_prob(sample), oracle(q).log_prob(flat))
    torch.testing.assert_close(q.entropy(), oracle(q).entropy())


def test_kl_equals_torch_distributions() -> None:
    q, p = gaussian(0), gaussian(1)
    expected = torch.distributions.kl_divergence(oracle(q), oracle(p)).item()
    assert kl_divergence(q, p) == pytest.approx(expected)


def test_geodesic_is_linear_in_mean_and_standard_deviation() -> None:
    q, p = gaussian(0), gaussian(1)
    point = geodesic(q, p)(0.25)
    torch.testing.assert_close(point.mean["w"], 0.75 * q.mean["w"] + 0.25 * p.mean["w"])
    torch.testing.assert_close(point.stddev["w"], 0.75 * q.stddev["w"] + 0.25 * p.stddev["w"])


def test_noise_is_common_along_the_geodesic(generator: torch.Generator) -> None:
    q, p = gaussian(0), gaussian(1)
    noise = q.draw_noise((), generator=generator)
    endpoints = q.from_noise(noise), p.from_noise(noise)
    midpoint = geodesic(q, p)(0.5).from_noise(noise)
    torch.testing.assert_close(midpoint["w"], (endpoints[0]["w"] + endpoints[1]["w"]) / 2)


@pytest.mark.parametrize(
    ("stddev", "message"),
    [
        (torch.tensor([0.1, -0.1]), "standard deviation of `w` to be nonnegative, got a minimum of -0.1"),
        (torch.tensor([0.1, float("nan")]), "1 of 2 entries that are NaN"),
        (torch.ones(3), r"has shape \(3,\), expected \(2,\)"),
    ],
)
def test_invalid_standard_deviations_raise(stddev: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DiagonalGaussianPosterior({"w": torch.zeros(2)}, {"w": stddev})


def test_a_density_requires_positive_standard_deviations() -> None:
    q = DiagonalGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 0.0])})
    with pytest.raises(InvalidInputError, match="got a zero standard deviation for `w`"):
        q.log_prob({"w": torch.zeros(2)})


def test_a_gaussian_and_a_point_mass_have_a_distance_but_no_geodesic() -> None:
    q = gaussian(0)
    with pytest.raises(NoClosedFormError, match="no 2-Wasserstein geodesic of `DiagonalGaussianPosterior` and `Point"):
        geodesic(q, PointPosterior(q.mean))
    with pytest.raises(InvalidInputError, match=r"in \[0, 1\]"):
        geodesic(q, q)(1.5)
    # A point mass is a Gaussian with zero standard deviations: W2^2 is the sum of the variances.
    expected = torch.sqrt(sum((s.square().sum() for s in q.stddev.values()), torch.zeros(()).double())).item()
    assert wasserstein_distance(q, PointPosterior(q.mean)) == pytest.approx(expected)
