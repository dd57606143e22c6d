"""Each path at interior points other than the midpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import rebasin_core as rc
from rebasin_core.barriers import AutoPath
from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors import (
    PosteriorPath,
    coupled_path,
    displacement_path,
    mean_path,
    mixture_path,
    moment_path,
)


def tensors(seed: int, *lead: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(*lead, 3, 2, generator=generator).double()}


def buffers(value: float, steps: int) -> dict[str, torch.Tensor]:
    return {"running_mean": torch.full((3,), value).double(), "steps": torch.tensor(steps)}


def gaussian(seed: int) -> rc.posteriors.DiagonalGaussianPosterior:
    return rc.posteriors.DiagonalGaussianPosterior(
        tensors(seed),
        {"w": tensors(seed + 10)["w"].abs()},
        fixed={"frozen": torch.tensor([float(seed)]).double()},
        buffers=buffers(seed, seed),
    )


def swag(seed: int, rank: int = 2) -> rc.posteriors.LowRankGaussianPosterior:
    return rc.posteriors.LowRankGaussianPosterior(
        tensors(seed), {"w": tensors(seed + 10)["w"].abs()}, tensors(seed + 20, rank)
    )


@pytest.mark.parametrize("path", [rc.posteriors.geodesic, moment_path, mean_path])
def test_fixed_parameters_and_buffers_are_interpolated(path: Callable[..., PosteriorPath]) -> None:
    first, second = gaussian(0), gaussian(4)
    point = path(first, second)(0.25)
    assert point.mean["frozen"].item() == 1.0
    assert point.buffers["running_mean"].tolist() == [1.0] * 3
    assert point.buffers["steps"].item() == 0, "integers are those of the nearer endpoint"


def test_fixed_parameters_are_not_random_on_a_geodesic() -> None:
    point = rc.posteriors.geodesic(gaussian(0), gaussian(4))(0.25)
    assert isinstance(point, rc.posteriors.DiagonalGaussianPosterior)
    assert point.random_names == ("w",)


def test_moment_path_is_linear_in_standard_deviations_of_any_representation() -> None:
    first, second = swag(0), rc.posteriors.SamplesPosterior(tensors(1, 4))
    point = moment_path(first, second)(0.25)
    torch.testing.assert_close(point.stddev["w"], 0.75 * first.stddev["w"] + 0.25 * second.stddev["w"])
    assert point.kind == "diagonal_gaussian"


def test_mean_path_is_the_line_between_the_means() -> None:
    first, second = swag(0), swag(1)
    point = mean_path(first, second)(0.25)
    assert point.is_point
    torch.testing.assert_close(point.mean["w"], 0.75 * first.mean["w"] + 0.25 * second.mean["w"])


def test_coupled_path_couples_samples_by_their_noise(generator: torch.Generator) -> None:
    first, second = swag(0), swag(1)
    path = coupled_path(first, second)
    noise = first.draw_noise((3,), generator=generator)
    start, point, end = (path(t).from_noise(noise)["w"] for t in (0.0, 0.25, 1.0))
    torch.testing.assert_close(point, 0.75 * start + 0.25 * end)
    torch.testing.assert_close(path(1.0).stddev["w"], second.stddev["w"])


def test_the_default_path_without_a_coupled_path_interpolates_samples() -> None:
    first, second = swag(0, 2), swag(1, 3)
    with pytest.raises(NoClosedFormError, match="same rank for the coupled path, got 2 and 3"):
        coupled_path(first, second)
    with pytest.raises(NoClosedFormError, match="no coupled path between posteriors of kind 'low_rank_gaussian' and"):
        coupled_path(first, rc.posteriors.PointPosterior(tensors(0)))
    assert AutoPath().between(first, second, num_samples=4)(0.25).kind == "samples"
    assert AutoPath().between(first, swag(1, 2))(0.25).kind == "low_rank_gaussian"


def test_displacement_path_interpolates_paired_samples_linearly() -> None:
    first, second = swag(0), gaussian(3)
    first = rc.posteriors.LowRankGaussianPosterior(first.mean, first.diagonal, first.factor)
    second = rc.posteriors.DiagonalGaussianPosterior({"w": second.mean["w"]}, {"w": second.stddev["w"]})
    path = displacement_path(first, second, num_samples=5, seed=1)
    start, point, end = path(0.0), path(0.25), path(1.0)
    for q in (start, point, end):
        assert isinstance(q, rc.posteriors.SamplesPosterior)
        assert q.num_samples == 5
    torch.testing.assert_close(point.mean["w"], 0.75 * start.mean["w"] + 0.25 * end.mean["w"])
    whole = rc.wasserstein_distance(start, end)
    assert rc.wasserstein_distance(start, point) == pytest.approx(0.25 * whole)


def test_mixture_path_flattens_mixtures_and_weighs_the_endpoints() -> None:
    parts = [rc.posteriors.PointPosterior({"w": torch.tensor([v])}) for v in (0.0, 8.0, 4.0)]
    first = rc.posteriors.MixturePosterior(parts[:2], weights=torch.tensor([0.75, 0.25]))
    point = mixture_path(first, parts[2])(0.25)
    assert isinstance(point, rc.posteriors.MixturePosterior)
    assert len(point.components) == 3
    torch.testing.assert_close(point.weights, torch.tensor([0.5625, 0.1875, 0.25]))
    assert point.mean["w"].item() == pytest.approx(0.75 * 2.0 + 0.25 * 4.0)


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_coefficients_out_of_range_raise(t: float) -> None:
    first, second = gaussian(0), gaussian(1)
    for path in (rc.posteriors.geodesic, moment_path, mean_path, mixture_path, displacement_path):
        with pytest.raises(InvalidInputError, match=r"t in \[0, 1\]"):
            path(first, second)(t)


@pytest.mark.parametrize(
    "path", [rc.posteriors.geodesic, moment_path, mean_path, mixture_path, displacement_path, coupled_path]
)
def test_both_endpoints_of_a_path_are_validated(path: Callable[..., PosteriorPath]) -> None:
    other = rc.posteriors.PointPosterior({"v": torch.zeros(2)})
    for wrong in (torch.zeros(2), {"w": torch.zeros(2)}, None):
        with pytest.raises(InvalidInputError, match="posterior"):
            path(wrong, gaussian(0))
        with pytest.raises(InvalidInputError, match="posterior"):
            path(gaussian(0), wrong)
    with pytest.raises(InvalidInputError, match="the second posterior"):
        path(gaussian(0), other)


def test_a_path_has_the_dtype_of_the_first_posterior() -> None:
    first, second = gaussian(0), gaussian(4)
    single = second.to(dtype=torch.float32)
    for path in (rc.posteriors.geodesic, moment_path, mean_path):
        for start, end in ((first, single), (single, first)):
            point = path(start, end)(0.25)
            assert {tensor.dtype for tensor in point.mean.values()} == {start.dtype}
            assert point.buffers["running_mean"].dtype == start.dtype
            torch.testing.assert_close(
                point.mean["w"], 0.75 * start.mean["w"] + 0.25 * end.mean["w"].to(start.dtype), rtol=1e-5, atol=1e-6
            )


def test_integer_buffers_are_those_of_the_nearer_endpoint() -> None:
    path = moment_path(gaussian(0), gaussian(4))
    assert [path(t).buffers["steps"].item() for t in (0.0, 0.25, 0.5, 0.51, 0.75, 1.0)] == [0, 0, 0, 4, 4, 4]


def test_a_linear_path_requires_the_same_tensors() -> None:
    first = rc.posteriors.LowRankGaussianPosterior(tensors(0), {"w": tensors(1)["w"].abs()}, tensors(2, 2))
    with pytest.raises(InvalidInputError, match="`factor` of the second posterior"):
        first.linear_path(swag(1, 3))
    with pytest.raises(InvalidInputError, match="two posteriors of kind 'low_rank_gaussian'"):
        first.linear_path(rc.posteriors.PointPosterior(tensors(0)))
    with pytest.raises(InvalidInputError, match="the same random parameters"):
        rc.posteriors.geodesic(
            gaussian(0),
            rc.posteriors.DiagonalGaussianPosterior(gaussian(0).mean, gaussian(0).stddev, buffers=buffers(0, 0)),
        )


def test_distance_of_a_gaussian_from_an_independent_one_equals_the_dense_distance() -> None:
    """Entries that are random in only one of the two add their variances."""
    low = swag(0)
    dense = rc.posteriors.FullGaussianPosterior(low.mean, low.root())
    independent = rc.posteriors.DiagonalGaussianPosterior(tensors(5), {"w": tensors(6)["w"].abs()})
    as_dense = rc.posteriors.FullGaussianPosterior(independent.mean, independent.root())
    expected = rc.wasserstein_distance(dense, as_dense)
    assert rc.wasserstein_distance(low, independent) == pytest.approx(expected, rel=1e-9)
    assert rc.wasserstein_distance(independent, low) == pytest.approx(expected, rel=1e-9)
    partly = rc.posteriors.LowRankGaussianPosterior(
        low.mean, low.diagonal, low.factor, fixed={"v": torch.zeros(2).double()}
    )
    whole = rc.posteriors.DiagonalGaussianPosterior(
        {**independent.mean, "v": torch.ones(2).double()}, {**independent.stddev, "v": torch.full((2,), 3.0).double()}
    )
    assert rc.wasserstein_distance(partly, whole) == pytest.approx((expected**2 + 2 + 18) ** 0.5, rel=1e-9)
    point = rc.posteriors.PointPosterior(tensors(5))
    trace = low.covariance().trace().item() + (low.mean["w"] - point.mean["w"]).square().sum().item()
    assert rc.wasserstein_distance(point, low) == pytest.approx(trace**0.5, rel=1e-9)
