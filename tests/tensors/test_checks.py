"""Checks of the entries of tensors."""

from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors import widening
from rebasin_core.tensors.checks import require_finite

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 511, 512, 1299])
def test_an_entry_that_is_not_finite_is_found_in_any_part(
    dtype: torch.dtype, value: float, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widening, "PART", 512)
    tensor = torch.ones(1300, dtype=dtype)
    tensor[position] = value
    with pytest.raises(InvalidInputError, match=r"the mean: `b` has 1 of 1300 entries that are NaN or infinite"):
        require_finite({"a": torch.ones(3), "b": tensor}, "the mean")
    with pytest.raises(InvalidInputError, match=r"`b` has 1 of 1300"):
        require_finite({"b": tensor.view(13, 100).T}, "the mean")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64])
def test_finite_entries_pass(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "PART", 512)
    require_finite({"a": torch.ones(1300, dtype=dtype), "b": torch.zeros(0), "c": torch.tensor(2.0)}, "the mean")


def test_sums_beyond_the_range_of_half_precision_are_no_error() -> None:
    require_finite({"a": torch.full((100,), 60_000.0, dtype=torch.float16)}, "the mean")
