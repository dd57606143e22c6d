"""Subscripts by integer tensors without dimensions, such as ``table[i]``, in a recorded execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rebasin_core.specs.operators.indexing import is_mask

if TYPE_CHECKING:
    from collections.abc import Iterator


def looked_up(source: object, subscript: object) -> list[Tensor]:
    """Look up the dimensions of a tensor that a subscript indexes by integer tensors without dimensions.

    PyTorch reads the value of such an index, and a graph of the execution contains only this value. The graph would
    permit permutations that are wrong for other values. Therefore the same elements are also looked up by an index
    tensor of one element, which the graph contains.

    Args:
        source: The tensor that is read or written.
        subscript: Its subscript.

    Returns:
        For each such index, zeros in the shape of the lookup. Inside `torch.vmap` or `torch.func.grad`, where lookups
        are not recorded, the whole tensor.
    """
    if not isinstance(source, Tensor):
        return []
    found = list(_scalar_indices(source, subscript))
    if found and torch._C._functorch.maybe_current_level() is not None:  # ruff: ignore[private-member-access] - there is no public alias
        return [_outermost(source)]  # a lookup inside `torch.vmap` or `torch.func.grad` must not leave it
    return [torch.zeros_like(source[(slice(None),) * dim + (index.long().reshape(1),)]) for dim, index in found]


def _outermost(tensor: Tensor) -> Tensor:
    """Return the tensor that transformations such as `torch.vmap` wrap."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # ruff: ignore[private-member-access]
        tensor = torch._C._functorch.get_unwrapped(tensor)  # ruff: ignore[private-member-access]
    return tensor


def _scalar_indices(source: Tensor, subscript: object) -> Iterator[tuple[int, Tensor]]:
    """Yield the indices without dimensions, with the dimensions that they index."""
    items = subscript if isinstance(subscript, tuple) else (subscript,)
    counts = [_indexed_dims(item) for item in items]
    rest = source.dim() - sum(counts)
    dim = 0
    for item, count in zip(items, counts, strict=True):
        if rest >= 0 and isinstance(item, Tensor) and item.dim() == 0 and count == 1:
            yield dim, item
        dim += rest if item is Ellipsis else count


def _indexed_dims(item: object) -> int:
    """Return the number of dimensions that an item of a subscript indexes, except for an ellipsis."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and is_mask(item) else 1
