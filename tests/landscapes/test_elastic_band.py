"""The nudged elastic band on surfaces with known saddle points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from scipy.optimize import root
from torch import Tensor

from rebasin_core.landscapes.elastic_band import BandSettings, ElasticBand, band_forces


def mueller_brown(x: Tensor) -> Tensor:
    """Return the surface of Mueller and Brown (1979), divided by 100."""
    terms = (
        (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
        (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
        (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
        (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
    )
    total = x.new_zeros(())
    for height, a, b, c, x0, y0 in terms:
        dx = x[0] - x0
        dy = x[1] - y0
        total += height * torch.exp(a * dx**2 + b * dx * dy + c * dy**2)
    return total / 100


def energy(network: Mapping[str, Tensor], _: float) -> Tensor:
    return mueller_brown(network["x"])


def double_well(network: Mapping[str, Tensor], _: float) -> Tensor:
    """Return a double well with minima (-1, 0) and (1, 0), and the saddle point (0, 0) of height 1."""
    x, y = network["x"]
    height: Tensor = (x**2 - 1) ** 2 + 5 * y**2
    return height


def straight(first: tuple[float, float], last: tuple[float, float], count: int) -> list[dict[str, Tensor]]:
    endpoints = torch.tensor([first, last], dtype=torch.float64)
    return [{"x": torch.lerp(endpoints[0], endpoints[1], index / (count - 1))} for index in range(count)]


def stationary(x: float, y: float) -> tuple[float, float]:
    """Return the stationary point of the surface nearby, by scipy."""

    def gradient(values: list[float]) -> list[float]:
        point = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(mueller_brown(point), point)
        return [float(value) for value in found]

    found = root(gradient, [x, y], tol=1e-12).x
    return float(found[0]), float(found[1])


def test_the_band_finds_the_highest_saddle_of_mueller_brown() -> None:
    minima = stationary(-0.56, 1.44), stationary(0.62, 0.03)
    saddle = mueller_brown(torch.tensor(stationary(-0.82, 0.62), dtype=torch.float64)).item()
    assert saddle == pytest.approx(-0.4066, abs=1e-3)  # published: -40.66
    band = ElasticBand(straight(*minima, 9), BandSettings(learning_rate=5e-3, momentum=0.5, stiffness=1.0))
    assert highest(band) > saddle + 0.5  # along the straight line
    for _ in range(3):
        for _ in range(80):
            band.step(energy)
        band = band.with_inserted_pivots(energy, 0.02)
    assert len(band.chain) > 12
    # Every path between the two minima passes the height of the saddle point, and the band not much more.
    assert saddle - 1e-3 < highest(band) < saddle + 0.03


def highest(band: ElasticBand) -> float:
    """Return the highest energy on the straight lines between the pivots."""
    points = [torch.lerp(a["x"], b["x"], step / 20) for a, b in pairwise(band.chain) for step in range(21)]
    return max(mueller_brown(point).item() for point in points)


def test_the_band_relaxes_to_the_valley_with_equal_distances() -> None:
    chain = straight((-1.0, 0.0), (1.0, 0.0), 9)
    for index, network in enumerate(chain):
        network["x"][1] = 0.8 * math.sin(math.pi * index / 8) ** 2
    band = ElasticBand(chain, BandSettings(0.02, 0.5, 3.0))
    for _ in range(300):
        losses = band.step(double_well)
    assert max(losses) == pytest.approx(1.0, abs=1e-3)  # at the saddle point (0, 0)
    for network in band.chain:
        assert network["x"][1].item() == pytest.approx(0.0, abs=1e-3)
    lengths = [(b["x"] - a["x"]).norm().item() for a, b in pairwise(band.chain)]
    assert max(lengths) / min(lengths) < 1.05


def test_endpoints_stay_fixed_and_inputs_unchanged() -> None:
    chain = straight((-1.0, 0.0), (1.0, 0.0), 5)
    band = ElasticBand(chain, BandSettings(0.01))
    band.step(double_well)
    for index in (0, -1):
        torch.testing.assert_close(band.chain[index], straight((-1.0, 0.0), (1.0, 0.0), 5)[index])
    torch.testing.assert_close(chain, straight((-1.0, 0.0), (1.0, 0.0), 5))


def test_forces_are_those_of_the_formula() -> None:
    chain = [{"x": torch.tensor(x)} for x in ([0.0, 0.0], [1.0, 0.0], [1.0, 3.0])]
    gradient = [{"x": torch.tensor([2.0, -5.0])}]
    # The higher neighbor is the last: the tangent is (0, 1), and the springs pull with 0.5 * (3 - 1).
    (up,) = band_forces(chain, [0.0, 1.0, 2.0], gradient, 0.5)
    assert up["x"].tolist() == pytest.approx([-2.0, 1.0])
    # The higher neighbor is the first: the tangent is (1, 0).
    (down,) = band_forces(chain, [2.0, 1.0, 0.0], gradient, 0.5)
    assert down["x"].tolist() == pytest.approx([1.0, 5.0])


def test_the_tangent_at_a_maximum_is_weighted_by_the_differences_in_loss() -> None:
    chain = [{"x": torch.tensor(x)} for x in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])]
    # Differences of 1 to the last and of 3 to the first network: the tangent is 3 (0, 1) + 1 (1, 0), since the last has
    # the higher loss. The gradient (1, 3) is parallel to it, and both neighbors have the same distance.
    (force,) = band_forces(chain, [1.0, 4.0, 3.0], [{"x": torch.tensor([1.0, 3.0])}], 1.0)
    assert force["x"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_pivot_is_inserted_where_the_loss_is_highest_above_the_segment() -> None:
    def bump(network: Mapping[str, Tensor], _: float) -> Tensor:
        return torch.exp(-20 * (network["x"][0] - 0.75) ** 2)

    band = ElasticBand(straight((-1.0, 0.0), (1.0, 0.0), 3), BandSettings(0.01))
    found = band.with_inserted_pivots(bump, 0.2)
    assert [network["x"][0].item() for network in found.chain] == pytest.approx([-1.0, 0.0, 0.75, 1.0])
    assert band.with_inserted_pivots(bump, math.inf) is band


def test_coinciding_networks_move_down_the_gradient() -> None:
    chain = [{"x": torch.ones(2)}] * 3
    (force,) = band_forces(chain, [1.0, 1.0, 1.0], [{"x": torch.tensor([1.0, 2.0])}], 1.0)
    assert force["x"].tolist() == [-1.0, -2.0]
