"""Trained curves: closed forms, lower losses, files, and invalid input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, DivergenceError, FileFormatError, InvalidInputError
from rebasin_core.landscapes import Curve
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior

Pair: TypeAlias = tuple[rc.Posterior, rc.Posterior]
METHODS: list[dict[str, Any]] = [
    {"name": "curved", "num_bends": 1, "epochs": 80, "learning_rate": 0.05},
    {"name": "curved", "num_bends": 3, "epochs": 80, "learning_rate": 0.05},
    {"name": "curved", "num_bends": 3, "kind": "polygon", "epochs": 80, "learning_rate": 0.05},
    {"name": "elastic_band", "epochs": 25, "cycles": 2, "learning_rate": 0.05},
]


def network(seed: int, width: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(60), (x.prod(1) > 0).long().split(60), strict=True))


@pytest.fixture(scope="module")
def trained() -> Pair:
    method = rc.inference.MAPInference(
        epochs=60, prior_scale=3.0, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=0.05)
    )
    return method.fit(network(0), data()).posterior, method.fit(network(1), data()).posterior


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_trained_curves_lower_the_barrier(trained: Pair, method: dict[str, Any]) -> None:
    task = rc.Task(network(0), data())
    straight = rc.barrier(*trained, task)
    curve = rc.fit_curve(*trained, task, method=method)
    along = rc.barrier(*trained, task, path=curve)
    assert straight.height > 0.1
    assert along.height < 0.5 * straight.height
    assert (along.loss[0], along.loss[-1]) == pytest.approx((straight.loss[0], straight.loss[-1]), rel=1e-5)
    # Estimator and curve agree: the generators of both are in the same state.
    again = rc.barrier(*trained, task, estimator=method)
    assert again.loss == pytest.approx(along.loss, rel=1e-5)


def test_the_bend_of_a_quadratic_is_the_optimum_in_closed_form() -> None:
    # One output w, targets 0, noise scale 1: the loss is w^2 / 2 up to a constant. With endpoints a and b, the control
    # point of E (a (1-t)^2 + 2 t (1-t) c + b t^2)^2 is c = -(a + b) E[t (1-t)^3] / (2 E[t^2 (1-t)^2]) = -3 (a + b) / 4.
    model = nn.Linear(1, 1, bias=False)
    task = rc.Task(model, [(torch.ones(4, 1), torch.zeros(4, 1))] * 40, rc.evaluation.GaussianLikelihood(scale=1.0))
    a = PointPosterior({"weight": torch.tensor([[1.0]])})
    b = PointPosterior({"weight": torch.tensor([[2.0]])})
    curve = rc.fit_curve(a, b, task, method={"name": "curved", "epochs": 40, "learning_rate": 0.1})
    assert curve.points[1].mean["weight"].item() == pytest.approx(-2.25, abs=0.1)


def test_a_curve_in_a_file_is_a_path_in_both_directions(trained: Pair, tmp_path: Path) -> None:
    task = rc.Task(network(0), data())
    curve = rc.fit_curve(*trained, task, method={"name": "curved", "num_bends": 2, "epochs": 3})
    curve.save(tmp_path / "curve.safetensors")
    path = {"name": "curve", "file": str(tmp_path / "curve.safetensors")}
    forward = rc.barrier(*trained, task, path=path, num_points=5)
    assert forward == rc.barrier(*trained, task, path=curve, num_points=5)
    assert rc.barrier(trained[1], trained[0], task, path=path, num_points=5).loss == pytest.approx(forward.loss[::-1])


def test_other_endpoints_raise_errors(trained: Pair, tmp_path: Path) -> None:
    task = rc.Task(network(0), data())
    curve = Curve("polygon", (PointPosterior(trained[0].mean), PointPosterior(trained[1].mean)))
    with pytest.raises(InvalidInputError, match="two endpoints of the curve"):
        rc.barrier(trained[0], trained[0], task, path=curve)
    wide = PointPosterior.from_module(network(0, width=13))
    with pytest.raises(InvalidInputError, match="shape"):
        rc.barrier(wide, wide, rc.Task(network(0, width=13), data()), path=curve)
    gaussian = DiagonalGaussianPosterior(trained[0].mean, {n: torch.ones_like(t) for n, t in trained[0].mean.items()})
    with pytest.raises(InvalidInputError, match="kind 'diagonal_gaussian'"):
        rc.barrier(gaussian, gaussian, task, path=curve)
    with pytest.raises(FileFormatError, match="absent"):
        rc.barrier(*trained, task, path={"name": "curve", "file": str(tmp_path / "absent")})


def test_networks_of_other_layouts_raise_errors(trained: Pair) -> None:
    with pytest.raises(InvalidInputError, match="shape"):
        rc.fit_curve(trained[0], network(0, width=13), rc.Task(network(0), data()))
    with pytest.raises(InvalidInputError, match="empty"):
        rc.fit_curve(*trained, rc.Task(network(0), []))


def test_only_methods_that_train_curves_are_accepted(trained: Pair) -> None:
    task = rc.Task(network(0), data())
    with pytest.raises(ConfigError, match="'pointwise'"):
        rc.fit_curve(*trained, task, method="pointwise")
    with pytest.raises(ConfigError, match="num_bends"):
        rc.fit_curve(*trained, task, method={"name": "curved", "num_bends": 0})


@pytest.mark.parametrize("name", ["curved", "elastic_band"])
def test_divergence_is_reported(trained: Pair, name: str) -> None:
    method: dict[str, Any] = {"name": name, "learning_rate": 1e37}
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        rc.fit_curve(*trained, rc.Task(network(0), data()), method=method)


def test_networks_and_model_are_unchanged_and_results_reproducible(trained: Pair) -> None:
    before = [{name: tensor.clone() for name, tensor in q.mean.items()} for q in trained]
    task = rc.Task(network(0), data())
    methods: list[dict[str, Any]] = [{"name": "curved", "epochs": 2}, {"name": "elastic_band", "epochs": 2}]
    for method in methods:
        curves = [
            rc.fit_curve(*trained, task, method=method, generator=torch.Generator().manual_seed(3)) for _ in range(2)
        ]
        for first, second in zip(curves[0].points, curves[1].points, strict=True):
            torch.testing.assert_close(first.mean, second.mean, rtol=0, atol=0)
    for q, expected in zip(trained, before, strict=True):
        torch.testing.assert_close(q.mean, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["curved", "elastic_band"])
def test_statistics_of_batch_normalization_are_those_of_the_trained_points(name: str) -> None:
    def normalized(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    first = PointPosterior.from_module(normalized(0))
    second = PointPosterior.from_module(normalized(1))
    task = rc.Task(normalized(0), data())
    curve = rc.fit_curve(first, second, task, method={"name": name, "epochs": 2})
    point = curve.points[1]
    layer = point.mean
    outputs = torch.cat([x for x, _ in data()]) @ layer["0.weight"].T + layer["0.bias"]
    torch.testing.assert_close(point.buffers["1.running_mean"], outputs.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curve.first.buffers, first.buffers)
