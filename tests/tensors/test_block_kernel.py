"""Discrepancies of blocks, compared with sums over pairs and with enumeration."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from rebasin_core.tensors import block_kernel
from rebasin_core.tensors.block_kernel import (
    BlockKernel,
    autocorrelation_time,
    blocks_of,
    gaussian_kernel,
    median_distance,
    pairwise_squared_distances,
)

BLOCKS = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4, 5])
FIRST = 3  # blocks, which have six draws


def kernel() -> torch.Tensor:
    points = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[6:] += 1
    return torch.exp(-torch.cdist(points, points).square())


def by_pairs(values: torch.Tensor, first: set[int], second: set[int]) -> float:
    """Return the squared discrepancy from its definition, for two sets of blocks."""

    def mean(one: set[int], other: set[int]) -> float:
        blocks = BLOCKS.tolist()
        pairs = [
            values[i, j].item()
            for i, j in product(range(10), repeat=2)
            if blocks[i] in one and blocks[j] in other and blocks[i] != blocks[j]
        ]
        return sum(pairs) / len(pairs)

    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


def test_the_discrepancy_is_the_mean_over_pairs_in_different_blocks() -> None:
    found = BlockKernel(kernel(), BLOCKS, FIRST)
    assert found.squared == pytest.approx(by_pairs(kernel(), {0, 1, 2}, {3, 4, 5}))


def test_the_standard_error_is_that_of_the_two_sample_jackknife() -> None:
    first, second = {0, 1, 2}, {3, 4, 5}
    total = 0.0
    for own, other in ((first, second), (second, first)):
        values = [by_pairs(kernel(), own - {block}, other) for block in own]
        center = sum(values) / 3
        total += 2 / 3 * sum((value - center) ** 2 for value in values)
    assert BlockKernel(kernel(), BLOCKS, FIRST).stderr() == pytest.approx(total**0.5)


def test_the_p_value_is_the_share_of_divisions_of_the_blocks() -> None:
    observed = by_pairs(kernel(), {0, 1, 2}, {3, 4, 5})
    every = [by_pairs(kernel(), set(part), set(range(6)) - set(part)) for part in combinations(range(6), 3)]
    share = sum(value >= observed - 1e-12 for value in every) / len(every)
    found = BlockKernel(kernel(), BLOCKS, FIRST).p_value(20_000, torch.Generator().manual_seed(0))
    assert found == pytest.approx(share, abs=0.015)


def test_blocks_are_consecutive_draws_of_one_chain() -> None:
    chains = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 2])
    assert blocks_of(chains, 2).tolist() == [0, 2, 0, 2, 0, 3, 1, 3, 1, 4]
    assert blocks_of(chains, 100).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_autocorrelation_time_of_an_autoregressive_process(correlation: float) -> None:
    noise = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chains = noise.clone()
    for t in range(1, 5000):
        chains[:, t] = correlation * chains[:, t - 1] + (1 - correlation**2) ** 0.5 * noise[:, t]
    exact = (1 + correlation) / (1 - correlation)
    index = torch.arange(4).repeat_interleave(5000)
    assert autocorrelation_time(chains.flatten(), index) == pytest.approx(exact, rel=0.15)


def test_the_autocorrelation_time_of_chains_in_different_modes_is_about_their_length() -> None:
    noise = 0.01 * torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chains = torch.arange(100) // 25
    found = autocorrelation_time(chains % 2 + noise, chains)
    assert 20 < found < 30
    assert autocorrelation_time(torch.ones(100), chains) == 1


@pytest.mark.parametrize("entries", [4, 2**22])
def test_pairwise_distances_of_several_samples(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_kernel, "_MAX_ENTRIES", entries)
    points = 100 + torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[5] = points[1]
    first = {"v": points[:3, 0], "w": points[:3, 1:].reshape(3, 5, 1)}
    second = {"w": points[3:, 1:].reshape(4, 5, 1), "v": points[3:, 0]}
    found = pairwise_squared_distances(first, second)
    torch.testing.assert_close(found, torch.cdist(points, points).square(), rtol=1e-9, atol=1e-9)
    assert found[5, 1] == found[1, 5] == found[3, 3] == 0
    assert not pairwise_squared_distances({"w": torch.full((4, 3), 0.1)}).any()


def test_the_median_distance_is_that_of_different_points() -> None:
    squares = (torch.tensor([[0.0], [1.0], [3.0]]) - torch.tensor([[0.0, 1.0, 3.0]])).square()
    assert median_distance(squares) == 2
    assert median_distance(torch.zeros(3, 3)) == 1
    mostly_equal = torch.zeros(5, 5)
    mostly_equal[0, 1:] = mostly_equal[1:, 0] = 9.0
    assert median_distance(mostly_equal) == 3
    assert gaussian_kernel(squares, [1.0, 2.0])[0, 1].item() == pytest.approx((0.6065307 + 0.8824969) / 2)
