"""Allocation of samples to examples, compared with the Neyman optimum."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.allocation import MIN_SAMPLES, Allocation


def data(rows: int, batch: int = 100) -> list[tuple[torch.Tensor, torch.Tensor]]:
    numbers = torch.arange(rows)
    return list(zip(numbers[:, None].double().split(batch), numbers.split(batch), strict=True))


def counts(allocation: Allocation) -> torch.Tensor:
    rows = torch.cat([stratum.rows for stratum in allocation.strata])
    each = torch.cat([torch.full((len(s.rows),), s.num_samples) for s in allocation.strata])
    return each[rows.argsort()]


def known_stddevs(rows: int = 2000) -> torch.Tensor:
    """Standard deviations over five orders of magnitude, shuffled."""
    return torch.logspace(-5, 0, rows, dtype=torch.float64)[
        torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    ]


@pytest.mark.parametrize("num_samples", [8, 16, 100])
def test_strata_hold_each_example_once_and_respect_the_total(num_samples: int) -> None:
    stddev = known_stddevs()
    found = Allocation.of(stddev, stddev, data(2000), num_samples)
    each = counts(found)
    assert len(each) == 2000
    assert int(each.min()) == MIN_SAMPLES
    assert 0.9 * num_samples < each.double().mean() <= num_samples
    for stratum in found.strata:
        inputs, targets = (torch.cat(parts) for parts in zip(*stratum.batches, strict=True))
        assert torch.equal(targets, stratum.rows)
        assert torch.equal(inputs[:, 0], stratum.rows.double())
        assert max(len(y) for _, y in stratum.batches) <= 100


def test_error_is_close_to_that_of_the_optimal_allocation() -> None:
    stddev = known_stddevs()
    each = counts(Allocation.of(stddev, stddev, data(2000), 64)).double()
    # Neyman's optimum for this total, without a minimum number of samples.
    best = stddev.mean().square() / 64 * 2000
    assert best < (stddev.square() / each).sum() < 1.15 * best
    assert (stddev.square() / 64).sum() > 4 * best


def test_noisy_errors_are_averaged_over_examples_of_similar_loss() -> None:
    stddev = known_stddevs()
    noisy = stddev * torch.randn(2000, generator=torch.Generator().manual_seed(1)).double()
    each = counts(Allocation.of(noisy, stddev.log(), data(2000), 64)).double()
    best = stddev.mean().square() / 64 * 2000
    assert (stddev.square() / each).sum() < 1.3 * best


def test_zero_errors_get_the_minimum() -> None:
    found = Allocation.of(torch.zeros(5), torch.arange(5.0), data(5), 16)
    assert counts(found).tolist() == [MIN_SAMPLES] * 5


def test_equal_errors_get_equal_numbers() -> None:
    assert counts(Allocation.of(torch.ones(50), torch.zeros(50), data(50), 16)).tolist() == [16] * 50


def test_too_few_samples_raise() -> None:
    with pytest.raises(InvalidInputError, match="at least 8 samples"):
        Allocation.of(torch.ones(2), torch.ones(2), data(2), 6)


@pytest.mark.parametrize("middle", [100, 5, 195])
def test_an_error_is_shared_with_the_32_examples_of_next_loss_on_each_side(middle: int) -> None:
    losses = torch.randperm(200, generator=torch.Generator().manual_seed(2)).double()
    errors = torch.where(losses == middle, 1.0, 0.0).double()
    each = counts(Allocation.of(errors, losses, data(200), 20))
    neighbors = (losses - middle).abs() <= 32
    assert (each > MIN_SAMPLES).tolist() == neighbors.tolist()
    # A quarter of the variance stays with the example itself.
    assert each[losses == middle].item() > each[losses != middle].max()
