"""Who gets how many samples: against the optimum of Neyman."""

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


def known_spread(rows: int = 2000) -> torch.Tensor:
    """Standard deviations over five orders of magnitude, in no order."""
    return torch.logspace(-5, 0, rows, dtype=torch.float64)[
        torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    ]


@pytest.mark.parametrize("num_samples", [8, 16, 100])
def test_every_example_is_there_once_and_the_total_is_kept(num_samples: int) -> None:
    spread = known_spread()
    found = Allocation.of(spread, spread, data(2000), num_samples)
    each = counts(found)
    assert len(each) == 2000
    assert int(each.min()) == MIN_SAMPLES
    assert 0.9 * num_samples < each.double().mean() <= num_samples
    for stratum in found.strata:
        inputs, targets = (torch.cat(parts) for parts in zip(*stratum.batches, strict=True))
        assert torch.equal(targets, stratum.rows)
        assert torch.equal(inputs[:, 0], stratum.rows.double())
        assert max(len(y) for _, y in stratum.batches) <= 100


def test_the_error_is_near_that_of_the_best_allocation() -> None:
    spread = known_spread()
    each = counts(Allocation.of(spread, spread, data(2000), 64)).double()
    # The least error there is at this total, without a least number of samples (Neyman).
    best = spread.mean().square() / 64 * 2000
    assert best < (spread.square() / each).sum() < 1.15 * best
    assert (spread.square() / 64).sum() > 4 * best


def test_noisy_errors_are_averaged_over_examples_of_like_loss() -> None:
    spread = known_spread()
    noisy = spread * torch.randn(2000, generator=torch.Generator().manual_seed(1)).double()
    each = counts(Allocation.of(noisy, spread.log(), data(2000), 64)).double()
    best = spread.mean().square() / 64 * 2000
    assert (spread.square() / each).sum() < 1.3 * best


def test_nothing_uncertain() -> None:
    found = Allocation.of(torch.zeros(5), torch.arange(5.0), data(5), 16)
    assert counts(found).tolist() == [MIN_SAMPLES] * 5


def test_equal_examples_share_evenly() -> None:
    assert counts(Allocation.of(torch.ones(50), torch.zeros(50), data(50), 16)).tolist() == [16] * 50


def test_too_few_samples() -> None:
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
