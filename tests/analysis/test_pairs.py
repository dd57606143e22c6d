"""Standard errors of means over pairs that share networks, compared with simulations of known variances."""

from __future__ import annotations

import math
import statistics
from itertools import combinations

import pytest
import torch

import rebasin_core as rc
from rebasin_core.analysis import PairMean, mean_over_pairs


def simulated(networks: int, node: float, pair: float, generator: torch.Generator) -> dict[tuple[int, int], float]:
    """Return values a_i + a_j + b_ij with standard deviations ``node`` of a and ``pair`` of b."""
    parts = (node * torch.randn(networks, generator=generator, dtype=torch.float64)).tolist()
    return {
        (i, j): parts[i] + parts[j] + pair * torch.randn((), generator=generator, dtype=torch.float64).item()
        for i, j in combinations(range(networks), 2)
    }


def independent(values: dict[tuple[int, int], float]) -> float:
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
