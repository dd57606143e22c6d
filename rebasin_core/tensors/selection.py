"""Order statistics of tensors that are too large to be sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

# Digits of 16 bits: the bits of a nonnegative float64 are an integer that has the same order.
_DIGIT = 16
_BINS = 1 << _DIGIT
_FIRST_SHIFT = 64 - _DIGIT
_FEW = 1 << 20


def kth_largest(blocks: Callable[[], Iterable[Tensor]], k: int, *, count: int) -> float:
    """Return the k-th largest of many nonnegative numbers, by radix selection.

    Args:
        blocks: Function that yields the numbers, as float64 tensors of one dimension; called up to four times.
        k: The rank, between 1 and ``count``.
        count: How many numbers there are.

    Returns:
        The number, exactly: at least k of the numbers are greater than or equal to it, and fewer than k are greater.

    Raises:
        InvalidInputError: If the rank is not between 1 and ``count``.

    Complexity:
        $O(n)$ time; a block, a histogram of $2^{16}$ counts and at most $2^{20}$ of the numbers in memory.

    Examples:
        >>> import torch
        >>> numbers = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
        >>> kth_largest(lambda: [numbers], 2, count=3)
        2.0
    """
    if not 1 <= k <= count:
        message = f"expected a rank between 1 and the count of the numbers, {count}, got {k}"
        raise InvalidInputError(message)
    prefix = 0
    shift = _FIRST_SHIFT
    # The leading digits of the result are `prefix`; it is the k-th largest of the `count` numbers with that prefix.
    while count > _FEW and shift >= 0:
        histogram = _histogram(blocks(), prefix, shift)
        at_least = histogram.flip(0).cumsum(0).flip(0)
        digit = int((at_least >= k).sum()) - 1
        count = int(histogram[digit])
        k -= int(at_least[digit]) - count
        prefix = (prefix << _DIGIT) | digit
        shift -= _DIGIT
    if shift < 0:
        return torch.tensor(prefix).view(torch.float64).item()
    candidates = torch.cat([_with_prefix(block, prefix, shift) for block in blocks()])
    return candidates.kthvalue(len(candidates) + 1 - k).values.view(torch.float64).item()


def _histogram(blocks: Iterable[Tensor], prefix: int, shift: int) -> Tensor:
    """Return the counts of the next digit among the numbers whose leading digits are given."""
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for block in blocks:
        digits = _with_prefix(block, prefix, shift).bitwise_right_shift_(shift).bitwise_and_(_BINS - 1)
        counts += digits.bincount(minlength=_BINS).cpu()
    return counts


def _with_prefix(block: Tensor, prefix: int, shift: int) -> Tensor:
    """Return the bits of the numbers whose digits above the next one are given, as a new tensor."""
    # Negative zero, which compares equal to zero, has other bits.
    bits = block.abs().view(torch.int64)
    return bits if shift == _FIRST_SHIFT else bits[bits >> (shift + _DIGIT) == prefix]
