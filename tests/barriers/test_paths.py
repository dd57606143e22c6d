"""The laws of paths detect wrong paths, and estimators accept any path."""

from __future__ import annotations

from pathlib import Path as Folder
from typing import Any, Literal

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.barriers import AutoPath, CoupledPath, MixturePath, MomentsPath, SamplesPath, WassersteinPath
from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors import displacement_path, moment_path
from rebasin_core.posteriors.capabilities import PosteriorPath
from rebasin_core.testing import LAWS


class LinePath(rc.Path):
    """Same as the path `moments`."""

    name: Literal["line"] = "line"

    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        return moment_path(problem.reference, problem.candidate)


class Short(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(0.9 * t)


class OneWay(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(t**2)


class MixedClasses(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(t) if t < 0.5 else rc.posteriors.PointPosterior(path(t).mean)


class OrderDependent(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)

        def at(t: float) -> rc.Posterior:
            point = path(t)
            mean = point.mean
            for tensor in mean.values():
                tensor[0] += t * (1 - t)  # depends on the order of the units
            return rc.posteriors.DiagonalGaussianPosterior(mean, point.stddev)

        return at


class Undefined(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        message = "this path is not defined"
        raise NoClosedFormError(message)


class Double(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(t).to(dtype=torch.float64)


def violated_laws(path: rc.Path, folder: Folder) -> set[str]:
    violated: set[str] = set()
    for law in LAWS["path"]:
        try:
            law.trial(path, folder)
        except rc.RebasinError:
            violated.add(law.name)
    return violated


def test_a_correct_path_satisfies_all_laws(tmp_path: Folder) -> None:
    assert not violated_laws(LinePath(), tmp_path)


@pytest.mark.parametrize(
    ("path", "law"),
    [
        (Short(), "endpoints"),
        (OneWay(), "reversal"),
        (MixedClasses(), "common_noise"),
        (OrderDependent(), "equivariance"),
        (Double(), "device_and_dtype"),
        (Undefined(), "endpoints"),
        (Undefined(), "equivariance"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_path_violates_a_law(path: rc.Path, law: str, tmp_path: Folder) -> None:
    assert law in violated_laws(path, tmp_path)


class ParabolaPath(rc.Path):
    """Single networks on a parabola: theta(t) = (1 - t) theta_0 + t theta_1 + t (1 - t) height."""

    name: Literal["parabola"] = "parabola"

    height: float = 1.0

    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        line = moment_path(problem.reference, problem.candidate)

        def at(t: float) -> rc.Posterior:
            return rc.posteriors.PointPosterior({
                name: mean + t * (1 - t) * self.height for name, mean in line(t).mean.items()
            })

        return at


def test_pointwise_barrier_along_any_path() -> None:
    endpoints = [rc.posteriors.PointPosterior({"weight": torch.full((1, 1), v).double()}) for v in (-1.0, 1.0)]
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    task = rc.Task(nn.Linear(1, 1, bias=False), [(one, zero)], rc.evaluation.GaussianLikelihood(scale=1.0))
    path = ParabolaPath(height=2.0)
    curve = rc.barrier(endpoints[0], endpoints[1], task, metric="squared_error", path=path, num_points=5)
    # The network outputs theta(t) = 2 t - 1 + 2 t (1 - t), whose target is 0.
    assert curve.loss == pytest.approx([(2 * t - 1 + 2 * t * (1 - t)) ** 2 for t in curve.t])


def test_path_option_accepts_a_name_a_mapping_or_an_instance() -> None:
    expected = rc.barriers.MarginalizedBarrier(path=MomentsPath())
    given: list[Any] = ["moments", {"name": "moments"}]
    assert all(rc.barriers.MarginalizedBarrier(path=path) == expected for path in given)
    assert rc.barriers.MarginalizedBarrier().model_dump()["path"] == {"name": "auto"}


def test_coefficients_out_of_range_and_different_tensors_raise() -> None:
    first = rc.posteriors.PointPosterior({"w": torch.zeros(2)})
    with pytest.raises(InvalidInputError, match=r"t in \[0, 1\], got 1\.5"):
        WassersteinPath().between(first, first)(1.5)
    with pytest.raises(InvalidInputError, match="the candidate"):
        SamplesPath().between(first, rc.posteriors.PointPosterior({"w": torch.zeros(3)}))


def gaussian(mean: float, stddev: float) -> rc.posteriors.DiagonalGaussianPosterior:
    return rc.posteriors.DiagonalGaussianPosterior(
        {"w": torch.tensor([mean, -mean]).double()}, {"w": torch.tensor([stddev, 2 * stddev]).double()}
    )


def swag(mean: float, rank: int) -> rc.posteriors.LowRankGaussianPosterior:
    factor = torch.arange(2.0 * rank).reshape(rank, 2).double()
    return rc.posteriors.LowRankGaussianPosterior(
        {"w": torch.tensor([mean, -mean]).double()}, {"w": torch.ones(2).double()}, {"w": factor}
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (MomentsPath(), "diagonal_gaussian"),
        (WassersteinPath(), "diagonal_gaussian"),
        (AutoPath(), "diagonal_gaussian"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_diagonal_gaussians_at_a_quarter(path: rc.Path, kind: str) -> None:
    point = path.between(gaussian(0.0, 1.0), gaussian(4.0, 3.0))(0.25)
    assert point.kind == kind
    assert point.mean["w"].tolist() == pytest.approx([1.0, -1.0])
    assert point.stddev["w"].tolist() == pytest.approx([1.5, 3.0])


def test_low_rank_gaussians_are_coupled_by_their_noise_at_a_quarter() -> None:
    first, second = swag(0.0, 2), swag(4.0, 2)
    path = CoupledPath().between(first, second)
    noise = first.draw_noise((3,), generator=torch.Generator().manual_seed(0))
    expected = 0.75 * first.from_noise(noise)["w"] + 0.25 * second.from_noise(noise)["w"]
    torch.testing.assert_close(path(0.25).from_noise(noise)["w"], expected)


def test_mixture_at_a_quarter() -> None:
    point = MixturePath().between(gaussian(0.0, 1.0), gaussian(4.0, 3.0))(0.25)
    assert point.mean["w"].tolist() == pytest.approx([1.0, -1.0])
    # Variance of a mixture: 0.75 * 1 + 0.25 * 9 within and 0.75 * 0.25 * 4^2 between the components.
    assert point.stddev["w"][0].item() ** 2 == pytest.approx(0.75 + 2.25 + 3.0)


@pytest.mark.parametrize("path", [SamplesPath(), AutoPath()], ids=lambda path: path.name)
def test_number_and_seed_determine_the_samples(path: rc.Path) -> None:
    first, second = swag(0.0, 2), swag(4.0, 3)  # different ranks: no coupled path and no geodesic
    quarters = [path.between(first, second, num_samples=6, seed=seed)(0.25) for seed in (1, 1, 2)]
    for quarter in quarters:
        assert isinstance(quarter, rc.posteriors.SamplesPosterior)
        assert quarter.num_samples == 6
    means = [quarter.mean["w"] for quarter in quarters]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
    draws = [q.sample((6,), generator=torch.Generator().manual_seed(1))["w"].mean(0) for q in (first, second)]
    torch.testing.assert_close(means[0], 0.75 * draws[0] + 0.25 * draws[1])


def test_samples_path_interpolates_buffers() -> None:
    endpoints = [
        rc.posteriors.DiagonalGaussianPosterior(
            {"w": torch.zeros(2).double()},
            {"w": torch.ones(2).double()},
            buffers={"running_mean": torch.full((3,), value).double()},
        )
        for value in (0.0, 4.0)
    ]
    point = SamplesPath().between(endpoints[0], endpoints[1], num_samples=4)(0.25)
    sample = point.sample((1,), generator=torch.Generator().manual_seed(0))
    assert sample["running_mean"].flatten().tolist() == pytest.approx([1.0] * 3)


def test_defaults_of_the_samples_path() -> None:
    first, second = swag(0.0, 2), swag(4.0, 3)
    point = displacement_path(first, second)(0.25)
    assert isinstance(point, rc.posteriors.SamplesPosterior)
    assert point.num_samples == 32
    torch.testing.assert_close(point.mean, displacement_path(first, second, num_samples=32, seed=0)(0.25).mean)
