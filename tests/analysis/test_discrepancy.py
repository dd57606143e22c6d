"""Maximum mean discrepancies of samples, compared with closed forms: bias, coverage, and size of the test."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from rebasin_core.analysis import Discrepancy, maximum_mean_discrepancy
from rebasin_core.errors import InvalidInputError

BANDWIDTH, DIMENSION = 2.0, 3


def chains(generator: torch.Generator, count: int, length: int, correlation: float, mean: float) -> torch.Tensor:
    """Return stationary autoregressive chains with normal marginals of variance 1."""
    noise = torch.randn(count, length, DIMENSION, generator=generator, dtype=torch.float64)
    found = noise.clone()
    for t in range(1, length):
        found[:, t] = correlation * found[:, t - 1] + math.sqrt(1 - correlation**2) * noise[:, t]
    return found.flatten(0, 1) + mean


def exact(mean: float) -> float:
    """Return the squared discrepancy between normal distributions whose means differ in every coordinate."""
    square = BANDWIDTH**2
    same = math.pow(square / (square + 2), DIMENSION / 2)
    return 2 * same * -math.expm1(-DIMENSION * mean**2 / (2 * (square + 2)))


def simulate(count: int, length: int, correlation: float, mean: float, *, known: bool, runs: int) -> list[Discrepancy]:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(count).repeat_interleave(length) if known else None
    return [
        maximum_mean_discrepancy(
            {"w": chains(generator, count, length, correlation, 0.0)},
            {"w": chains(generator, count, length, correlation, mean)},
            chains=(index, index),
            bandwidth=BANDWIDTH,
            num_permutations=99,
            generator=generator,
        )
        for _ in range(runs)
    ]


@pytest.mark.parametrize(("correlation", "known", "runs"), [(0.0, False, 300), (0.7, True, 150)])
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_bias_coverage_and_size(mean: float, correlation: float, runs: int, *, known: bool) -> None:
    found = simulate(2, 40, 0.0, mean, known=known, runs=runs) if not correlation else None
    found = found or simulate(4, 50, correlation, mean, known=known, runs=runs)
    values = [each.squared for each in found]
    deviation = statistics.stdev(values)
    assert statistics.mean(values) == pytest.approx(exact(mean), abs=4 * deviation / math.sqrt(runs))
    low, high = (1.2, 1.7) if not mean else (0.85, 1.15)  # by sqrt(2) for equal distributions, as documented
    assert low < statistics.mean(each.stderr for each in found) / deviation < high
    covered = [each.interval()[0] <= exact(mean) <= each.interval()[1] for each in found]
    assert 0.9 <= statistics.mean(covered) <= 1
    rejected = statistics.mean(each.p_value <= 0.05 for each in found)
    assert rejected > 0.7 if mean else rejected < 0.12


def test_chains_that_are_treated_as_independent_draws_are_rejected_too_often() -> None:
    """A control: the blocks are necessary."""
    found = simulate(4, 40, 0.7, 0.0, known=False, runs=60)
    assert statistics.mean(each.p_value <= 0.05 for each in found) > 0.3


def test_chains_in_different_modes_are_single_blocks() -> None:
    index = torch.arange(100) // 25
    modes = torch.tensor([0.0, 1.0, 2.0, 3.0])[index].unsqueeze(1)
    noise = 0.01 * torch.randn(2, 100, 1, generator=torch.Generator().manual_seed(0))
    found = maximum_mean_discrepancy({"w": modes + noise[0]}, {"w": modes + noise[1]}, chains=(index, index))
    assert found.num_blocks == (4, 4)
    assert found.p_value > 0.5


def test_equal_distributions_have_distance_zero_and_several_bandwidths_are_averaged() -> None:
    generator = torch.Generator().manual_seed(1)
    x = {"w": torch.randn(20, 2, generator=generator)}
    y = {"w": torch.randn(20, 2, generator=generator)}
    found = [maximum_mean_discrepancy(x, y, bandwidth=h, num_permutations=0) for h in (0.5, 2, [0.5, 2])]
    assert found[2].squared == pytest.approx((found[0].squared + found[1].squared) / 2)
    assert math.isnan(found[0].p_value)
    assert min(each.squared for each in found) < 0
    assert [each.distance for each in found] == [math.sqrt(max(0.0, each.squared)) for each in found]
    assert maximum_mean_discrepancy(x, y).bandwidths[0] == pytest.approx(
        torch.pdist(torch.cat([x["w"], y["w"]])).quantile(0.5).item()
    )


def test_bad_samples_and_options_are_errors() -> None:
    x = {"w": torch.zeros(4, 2)}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"v": torch.zeros(4, 2)}, {}, "the second sample"),
        ({"w": torch.zeros(4, 3)}, {}, "the second sample"),
        ({"w": torch.zeros(0, 2)}, {}, "same number of draws of every tensor in the second sample"),
        ({"w": torch.full((4, 2), math.nan)}, {}, "expected finite draws"),
        (x, {"bandwidth": 0.0}, "positive, finite `bandwidth`"),
        (x, {"bandwidth": []}, "positive, finite `bandwidth`"),
        (x, {"num_permutations": -1}, "`num_permutations` of at least 0"),
        (x, {"block_length": 0}, "`block_length` of at least 1"),
        (x, {"block_length": 4}, "at least two blocks of draws in each sample, got 1 and 1"),
        (x, {"chains": (torch.zeros(3, dtype=torch.int64), None)}, "expected 4 chain indices"),
    ]
    for second, options, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            maximum_mean_discrepancy(x, second, **options)
    with pytest.raises(InvalidInputError, match="draws as a mapping"):
        maximum_mean_discrepancy(torch.zeros(3, 2), x)  # type: ignore[arg-type] # the error is tested
