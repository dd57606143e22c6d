"""Index tensors of permutations: validation, and reordering along the outer dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def reorder_outer(index: Tensor, outer: list[Tensor]) -> Tensor:
    """Return ``index[outer[0][h0], outer[1][h0, h1], ...]`` over all outer units: reorder the rows of an index.

    Args:
        index: ``[*outer, n]``.
        outer: Indices of the outer groups, the outermost first: ``[n0]``, ``[n0, n1]``, ...

    Returns:
        ``[*outer, n]``.
    """
    # Trailing dimensions of size 1 make the indices broadcast; together they index the leading dimensions.
    rows = [order.reshape(*order.shape, *[1] * (len(outer) - order.dim())) for order in outer]
    return index[tuple(rows)] if rows else index


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_index(name: str, index: Tensor, shape: tuple[int, ...]) -> None:
    """Raise if an index is not a permutation.

    Args:
        name: The group, for messages.
        index: The index.
        shape: The expected shape.

    Raises:
        InvalidInputError: If the shape differs, or an integer from 0 to n - 1 is missing.
    """
    if index.dtype not in _WHOLE or tuple(index.shape) != shape:
        message = f"group {name!r}: expected integers of shape {shape}, got {index.dtype} of shape {tuple(index.shape)}"
        raise InvalidInputError(message)
    if not torch.equal(index.sort(-1).values.cpu(), torch.arange(shape[-1]).expand(shape)):
        message = f"group {name!r}: expected each integer from 0 to {shape[-1] - 1} exactly once"
        raise InvalidInputError(message)
