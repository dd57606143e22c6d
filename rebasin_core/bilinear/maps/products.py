"""Similarities between units: inner products of two networks over all dimensions but those of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def unit_products(reference: Tensor, candidate: Tensor, *, batch: Sequence[int], compared: Sequence[int]) -> Tensor:
    """Return inner products between all pairs of units.

    Args:
        reference: Any tensor.
        candidate: A tensor of the same shape.
        batch: Dimensions along which only equal indices are compared.
        compared: Dimensions along which all pairs of indices are compared; all other dimensions are summed over.

    Returns:
        ``[*batch, *compared, *compared]``, the second time for the candidate, in the dtype of the tensors.
    """
    front = [*batch, *compared]
    rest = [dim for dim in range(reference.dim()) if dim not in front]
    shape = [reference.shape[dim] for dim in front]
    num_batch = len(batch)

    def rows(tensor: Tensor) -> Tensor:
        moved = tensor.permute([*batch, *compared, *rest])
        size = torch.Size(shape[:num_batch]).numel()
        return moved.reshape(size, torch.Size(shape[num_batch:]).numel(), -1)

    found = rows(reference) @ rows(candidate).mT
    return found.reshape(*shape, *shape[num_batch:])
