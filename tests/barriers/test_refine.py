"""The refinement of a maximum, on losses that are polynomials in t."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch

from rebasin_core.barriers import refine
from rebasin_core.barriers.refine import path_grid, refine_maximum
from rebasin_core.errors import ConvergenceWarning
from rebasin_core.evaluation import LossEstimate


class Recorded:
    """A loss as a function of t, with the points at which it was evaluated."""

    def __init__(self, loss: Callable[[float], float]) -> None:
        self.loss = loss
        self.points: list[float] = []

    def __call__(self, t: float) -> LossEstimate:
        self.points.append(t)
        return LossEstimate(self.loss(t), 0.0, 0.0, "p", 0.0, torch.zeros(2), torch.zeros(2))


def test_the_grid_is_equally_spaced() -> None:
    assert path_grid(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    evaluate = Recorded(lambda t: t)
    points, estimates = refine_maximum(evaluate, path_grid(3), None)
    assert points == evaluate.points == [0.0, 0.5, 1.0]
    assert [estimate.loss for estimate in estimates] == points


@pytest.mark.parametrize("slope", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("peak", [0.3, 0.42, 0.6])
def test_the_maximum_of_a_parabola_is_found_at_once(slope: float, peak: float) -> None:
    # The excess over the chord has its maximum where the loss without its linear part has.
    curvature = 4.0

    def loss(t: float) -> float:
        return 1 + slope * t - curvature * (t - peak) ** 2 + curvature * ((1 - t) * peak**2 + t * (1 - peak) ** 2)

    def excess(t: float) -> float:
        return loss(t) - (1 - t) * loss(0.0) - t * loss(1.0)

    expected = max((t / 1000 for t in range(1001)), key=excess)
    evaluate = Recorded(loss)
    points, estimates = refine_maximum(evaluate, path_grid(5), 1e-9)
    assert points == sorted(points)
    assert [estimate.loss for estimate in estimates] == [loss(t) for t in points]
    assert len(set(evaluate.points)) == len(evaluate.points) == len(points)
    best = max(points, key=excess)
    # The parabola is exact: its maximum at 0.5 is on the grid.
    assert best == pytest.approx(0.5, abs=1e-9)
    assert expected == 0.5


def skew(t: float) -> float:
    """A cubic with the excess 27 / 4 t (1 - t)^2, whose maximum of 1 is at 1/3."""
    return 27 / 4 * t * (1 - t) ** 2 + 2 - t


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_maximum_of_a_cubic_is_located_to_the_tolerance(*, mirrored: bool) -> None:
    loss = (lambda t: skew(1 - t)) if mirrored else skew
    points, estimates = refine_maximum(Recorded(loss), path_grid(5), 1e-5)
    endpoints = estimates[0].loss, estimates[-1].loss
    excess = {t: e.loss - (1 - t) * endpoints[0] - t * endpoints[1] for t, e in zip(points, estimates, strict=True)}
    best = max(excess, key=excess.__getitem__)
    assert excess[best] == pytest.approx(1.0, abs=1e-5)
    assert best == pytest.approx(2 / 3 if mirrored else 1 / 3, abs=3e-3)
    # Successive parabolic interpolation: the maximum is known to 2e-3, 3e-4, 5e-6 after one, two, three more points.
    assert len(points) == 5 + 3
    # The predicted increase is 0.084: at a larger tolerance the grid suffices.
    assert len(refine_maximum(Recorded(loss), path_grid(5), 0.08)[0]) > 5
    assert refine_maximum(Recorded(loss), path_grid(5), 0.09)[0] == path_grid(5)


def test_the_points_of_a_mirrored_loss_are_mirrored() -> None:
    for tolerance in (1e-2, 1e-3, 1e-6):
        points, _ = refine_maximum(Recorded(skew), path_grid(5), tolerance)
        mirrored, _ = refine_maximum(Recorded(lambda t: skew(1 - t)), path_grid(5), tolerance)
        assert [1 - t for t in reversed(mirrored)] == pytest.approx(points)


def test_a_maximum_next_to_the_last_point_is_found() -> None:
    points, estimates = refine_maximum(Recorded(lambda t: t**9 * (1 - t)), path_grid(5), 1e-6)
    best = max(estimates, key=lambda e: e.loss).loss
    assert best == pytest.approx(0.9**9 * 0.1, abs=1e-5)
    assert len(points) > 6


def test_a_path_without_a_maximum_inside_needs_no_more_points() -> None:
    evaluate = Recorded(lambda t: (t - 0.5) ** 2)
    assert refine_maximum(evaluate, path_grid(5), 1e-6)[0] == path_grid(5)
    assert refine_maximum(Recorded(lambda t: 1 + t), path_grid(5), 1e-6)[0] == path_grid(5)


def test_no_point_is_added_next_to_another() -> None:
    for loss in (skew, lambda t: min(t / 0.3, (1 - t) / 0.7), lambda t: 1 - abs(t - 0.37) ** 0.5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            points, _ = refine_maximum(Recorded(loss), path_grid(5), 1e-12)
        assert len(points) > 5
        assert min(b - a for a, b in itertools.pairwise(points)) >= 1e-3 - 1e-12


def test_a_maximum_on_the_grid_needs_no_more_points() -> None:
    assert refine_maximum(Recorded(lambda t: 1 - (t - 0.5) ** 2), path_grid(5), 1e-9)[0] == path_grid(5)


def test_a_maximum_that_is_not_located_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "_MAX_ADDED", 3)
    with pytest.warns(ConvergenceWarning, match="did not converge to within 1e-12 after 3 more points"):
        points, _ = refine_maximum(Recorded(lambda t: 1 - abs(t - 0.37) ** 0.5), path_grid(5), 1e-12)
    assert len(points) == 8
