"""The laws of paths find wrong ones, and estimators measure along any path."""

from __future__ import annotations

from pathlib import Path as Folder
from typing import Any, Literal

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.barriers import MomentsPath, SamplesPath, WassersteinPath
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import moment_path
from rebasin_core.posteriors.capabilities import PosteriorPath
from rebasin_core.testing import LAWS


class LinePath(rc.Path):
    """The path `moments` once more."""

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


class OfManyKinds(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(t) if t < 0.5 else rc.posteriors.PointPosterior(path(t).mean)


class OfTheOrder(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)

        def at(t: float) -> rc.Posterior:
            point = path(t)
            mean = point.mean
            for tensor in mean.values():
                tensor[0] += t * (1 - t)  # the first unit, whichever that is
            return rc.posteriors.DiagonalGaussianPosterior(mean, point.stddev)

        return at


class Double(LinePath):
    @override
    def _between(self, problem: rc.barriers.PathProblem) -> PosteriorPath:
        path = super()._between(problem)
        return lambda t: path(t).to(dtype=torch.float64)


def broken_laws(path: rc.Path, folder: Folder) -> set[str]:
    broken: set[str] = set()
    for law in LAWS["path"]:
        try:
            law.trial(path, folder)
        except rc.RebasinError:
            broken.add(law.name)
    return broken


def test_a_right_path_keeps_all_laws(tmp_path: Folder) -> None:
    assert not broken_laws(LinePath(), tmp_path)


@pytest.mark.parametrize(
    ("path", "law"),
    [
        (Short(), "endpoints"),
        (OneWay(), "reversal"),
        (OfManyKinds(), "common_noise"),
        (OfTheOrder(), "equivariance"),
        (Double(), "kept"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_path_breaks_a_law(path: rc.Path, law: str, tmp_path: Folder) -> None:
    assert law in broken_laws(path, tmp_path)


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


def test_single_networks_are_measured_along_any_path() -> None:
    ends = [rc.posteriors.PointPosterior({"weight": torch.full((1, 1), v).double()}) for v in (-1.0, 1.0)]
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    task = rc.Task(nn.Linear(1, 1, bias=False), [(one, zero)], rc.evaluation.GaussianLikelihood(scale=1.0))
    path = ParabolaPath(height=2.0)
    curve = rc.barrier(ends[0], ends[1], task, metric="squared_error", path=path, num_points=5)
    # The network outputs theta(t) = 2 t - 1 + 2 t (1 - t), whose target is 0.
    assert curve.loss == pytest.approx([(2 * t - 1 + 2 * t * (1 - t)) ** 2 for t in curve.t])


def test_a_path_is_an_option_by_name_mapping_or_instance() -> None:
    expected = rc.barriers.MarginalizedBarrier(path=MomentsPath())
    given: list[Any] = ["moments", {"name": "moments"}]
    assert all(rc.barriers.MarginalizedBarrier(path=path) == expected for path in given)
    assert rc.barriers.MarginalizedBarrier().model_dump()["path"] == {"name": "auto"}


def test_coefficients_out_of_range_and_tensors_that_differ_are_refused() -> None:
    first = rc.posteriors.PointPosterior({"w": torch.zeros(2)})
    with pytest.raises(InvalidInputError, match=r"t in \[0, 1\], got 1\.5"):
        WassersteinPath().between(first, first)(1.5)
    with pytest.raises(InvalidInputError, match="the candidate"):
        SamplesPath().between(first, rc.posteriors.PointPosterior({"w": torch.zeros(3)}))
