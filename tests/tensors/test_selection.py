"""Radix selection against sorting."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors import selection
from rebasin_core.tensors.selection import kth_largest

GENERATOR = torch.Generator().manual_seed(0)
NUMBERS = {
    "normal": torch.randn(5000, generator=GENERATOR, dtype=torch.float64).abs(),
    "many scales": torch.randn(5000, generator=GENERATOR, dtype=torch.float64).mul(50).exp(),
    "equal": torch.full((5000,), 0.7, dtype=torch.float64),
    "few values": torch.randint(0, 4, (5000,), generator=GENERATOR).double(),
    "nearly equal": 1 + torch.randint(0, 9, (5000,), generator=GENERATOR).double() * 2**-52,
    "zeros of both signs": torch.tensor([0.0, -0.0, 5e-324, 1.0] * 1250, dtype=torch.float64),
}


def blocks(numbers: Tensor, size: int) -> Iterator[Tensor]:
    yield from numbers.split(size)


@pytest.mark.parametrize("few", [0, 10, 1 << 20])
@pytest.mark.parametrize("kind", NUMBERS)
def test_result_is_that_of_sorting(kind: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_FEW", few)  # the number of candidates that are sorted
    numbers = NUMBERS[kind]
    ordered = numbers.sort(descending=True).values
    for k in (1, 2, 1234, 2500, 4999, 5000):
        assert kth_largest(partial(blocks, numbers, 700), k, count=5000) == ordered[k - 1].item()


@pytest.mark.parametrize("k", [0, 4])
def test_rank_out_of_range(k: int) -> None:
    with pytest.raises(InvalidInputError, match=f"expected a rank between 1 and the count of the numbers, 3, got {k}"):
        kth_largest(lambda: [torch.ones(3, dtype=torch.float64)], k, count=3)
