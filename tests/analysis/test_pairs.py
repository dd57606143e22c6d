"""Standard errors of means over pairs that share networks, compared with simulations of known variances."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.analysis import PairMean, mean_over_cells, mean_over_pairs


def simulated(networks: int, node: float, pair: float, generator: torch.Generator) -> dict[tuple[int, int], float]:
    """Return values a_i + a_j + b_ij with standard deviations ``node`` of a and ``pair`` of b."""
    parts = (node * torch.randn(networks, generator=generator, dtype=torch.float64)).tolist()
    return {
        (i, j): parts[i] + parts[j] + pair * torch.randn((), generator=generator, dtype=torch.float64).item()
        for i, j in combinations(range(networks), 2)
    }


def independent(values: Mapping[Any, float]) -> float:
    return statistics.stdev(values.values()) / math.sqrt(len(values))


@pytest.mark.parametrize("networks", [3, 5, 8])
def test_the_jackknife_error_due_to_networks_is_unbiased_and_the_naive_one_is_too_small(networks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [simulated(networks, 1.0, 0.0, generator) for _ in range(3000)]
    true = 4 / networks
    jackknife = statistics.mean(mean_over_pairs(draw).stderr ** 2 for draw in draws)
    assert jackknife == pytest.approx(true, rel=0.1)
    assert statistics.variance(mean_over_pairs(draw).mean for draw in draws) == pytest.approx(true, rel=0.1)
    naive = statistics.mean(independent(draw) ** 2 for draw in draws)
    assert naive == pytest.approx(true / (networks + 1), rel=0.1)


@pytest.mark.parametrize("networks", [3, 5, 8])
def test_the_jackknife_error_due_to_pairs_is_overstated_as_documented(networks: int) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = [simulated(networks, 0.0, 1.0, generator) for _ in range(3000)]
    true = 1 / math.comb(networks, 2)
    jackknife = statistics.mean(mean_over_pairs(draw).stderr ** 2 for draw in draws)
    assert jackknife == pytest.approx(true * 2 * (networks - 1) / (networks - 2), rel=0.1)


def test_confidence_intervals_have_their_nominal_coverage() -> None:
    generator = torch.Generator().manual_seed(2)
    quantile = {3: 4.303, 5: 2.776}  # of Student's distribution, 97.5 %, with n - 1 degrees of freedom
    for networks, factor in quantile.items():
        draws = [simulated(networks, 1.0, 0.5, generator) for _ in range(2000)]
        covers = statistics.mean(
            abs(found.mean) < factor * found.stderr for found in (mean_over_pairs(draw) for draw in draws)
        )
        assert 0.93 < covers < 0.99
        naive = statistics.mean(abs(statistics.mean(draw.values())) < 1.96 * independent(draw) for draw in draws)
        assert naive < 0.75


def test_three_networks_have_twice_the_error_of_independent_pairs() -> None:
    values = {(1, 2): 0.3, (1, 3): 0.7, (2, 3): 1.1}
    assert mean_over_pairs(values).stderr == pytest.approx(2 * independent(values))


def test_reversed_pairs_are_averaged_and_the_error_of_few_networks_is_nan() -> None:
    found = mean_over_pairs({("a", "b"): 1.0, ("b", "a"): 3.0})
    assert (found.mean, found.num_networks, found.num_pairs) == (2.0, 2, 1)
    assert math.isnan(found.stderr)
    star = mean_over_pairs({(0, 1): 1.0, (0, 2): 2.0, (0, 3): 3.0})
    assert math.isnan(star.stderr), "without network 0 no pair remains"
    assert isinstance(star, PairMean)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected at least one pair, got none"),
        ({(1, 1): 0.0}, r"expected pairs of two networks, got \(1, 1\)"),
        ({(1, 2): math.nan}, r"expected finite values, got nan for \(1, 2\)"),
    ],
)
def test_invalid_pairs_are_errors(values: dict[tuple[int, int], float], message: str) -> None:
    with pytest.raises(rc.errors.InvalidInputError, match=message):
        mean_over_pairs(values)


def simulated_cells(
    networks: int, cells: int, shared: float, own: float, generator: torch.Generator
) -> list[dict[tuple[int, int], float]]:
    """Return values of cells whose networks of one seed have a common part and a part of their own."""
    common = shared * torch.randn(networks, generator=generator, dtype=torch.float64)
    found: list[dict[tuple[int, int], float]] = []
    for _ in range(cells):
        parts = (common + own * torch.randn(networks, generator=generator, dtype=torch.float64)).tolist()
        found.append({(i, j): parts[i] + parts[j] for i, j in combinations(range(networks), 2)})
    return found


@pytest.mark.parametrize(("shared", "own"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_the_error_over_cells_is_unbiased_whatever_the_dependence_within_a_seed(shared: float, own: float) -> None:
    networks, cells = 5, 4
    generator = torch.Generator().manual_seed(3)
    draws = [simulated_cells(networks, cells, shared, own, generator) for _ in range(2000)]
    true = 4 / networks * (shared**2 + own**2 / cells)
    assert statistics.variance(mean_over_cells(draw).mean for draw in draws) == pytest.approx(true, rel=0.1)
    assert statistics.mean(mean_over_cells(draw).stderr ** 2 for draw in draws) == pytest.approx(true, rel=0.1)
    # Cells that are treated as independent: right only if they are.
    naive = statistics.mean(sum(mean_over_pairs(c).stderr ** 2 for c in draw) / cells**2 for draw in draws)
    assert naive == pytest.approx(4 / networks * (shared**2 + own**2) / cells, rel=0.1)


def test_intervals_over_dependent_cells_have_their_nominal_coverage() -> None:
    generator = torch.Generator().manual_seed(4)
    draws = [simulated_cells(5, 4, 1.0, 0.5, generator) for _ in range(2000)]
    found = [mean_over_cells(draw) for draw in draws]
    covers = statistics.mean(low < 0 < high for low, high in (one.interval() for one in found))
    assert 0.93 < covers < 0.97
    # Cells with other networks (16 degrees of freedom), and all pairs of all cells as independent values (39).
    cells = [math.sqrt(sum(mean_over_pairs(cell).stderr ** 2 for cell in draw)) / 4 for draw in draws]
    pairs = [independent(dict(enumerate(v for cell in draw for v in cell.values()))) for draw in draws]
    for errors, quantile, limit in ((cells, 2.12, 0.75), (pairs, 2.02, 0.45)):
        assert statistics.mean(abs(o.mean) < quantile * e for o, e in zip(found, errors, strict=True)) < limit


def test_the_jackknife_over_unequal_cells_is_the_loop_that_leaves_one_network_out() -> None:
    cells = [
        {(1, 2): 0.3, (1, 3): 0.7, (2, 3): 1.1, (3, 4): 0.2, (2, 4): 0.9},
        {(1, 2): 5.0, (2, 3): 1.0, (1, 3): 2.0},
    ]

    def mean(without: int) -> float:
        kept = [[value for pair, value in cell.items() if without not in pair] for cell in cells]
        return statistics.mean(statistics.mean(values) for values in kept)

    replicates = [mean(k) for k in (1, 2, 3, 4)]
    expected = math.sqrt(3 / 4 * sum((value - statistics.mean(replicates)) ** 2 for value in replicates))
    found = mean_over_cells(cells)
    assert found.mean == pytest.approx(mean(0))
    assert found.stderr == pytest.approx(expected)
    assert (found.num_networks, found.num_pairs, found.num_cells, found.degrees) == (4, 8, 2, 3)


def test_with_a_fixed_reference_the_error_is_that_of_independent_values() -> None:
    values = {(0, 1): 1.0, (0, 2): 2.0, (0, 3): 4.0}
    found = mean_over_pairs(values, fixed=[0])
    assert found.stderr == pytest.approx(statistics.stdev(values.values()) / math.sqrt(3))
    assert (found.degrees, found.num_fixed) == (2, 1)
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(4.302653 * found.stderr)
    assert all(math.isnan(limit) for limit in mean_over_pairs({(0, 1): 1.0}).interval())


def test_no_cell_is_an_error() -> None:
    with pytest.raises(rc.errors.InvalidInputError, match="expected at least one cell"):
        mean_over_cells([])
