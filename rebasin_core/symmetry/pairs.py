"""Pairs of units on which rotations act."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor


@final
class Pairs(StrEnum):
    """Which units of a group are a pair, that is, the real and the imaginary part of a complex number."""

    HALVES = "halves"
    """Unit i of the first half and unit i of the second half (Llama in `transformers`, GPT-NeoX)."""
    NEIGHBORS = "neighbors"
    """Units 2 i and 2 i + 1 (GPT-J, RoFormer, the original code of Llama)."""

    def parts(self, tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return the first and the second unit of all pairs.

        Args:
            tensor: A tensor whose length along the dimension is even.
            dim: The dimension of the units.

        Returns:
            Two views of half the length.
        """
        if self is Pairs.HALVES:
            first, second = tensor.chunk(2, dim)
            return first, second
        dim %= tensor.dim()
        first, second = tensor.unflatten(dim, (-1, 2)).unbind(dim + 1)
        return first, second

    def joined(self, first: Tensor, second: Tensor, dim: int) -> Tensor:
        """Return the tensor of which `parts` returns the given parts.

        Args:
            first: The first unit of all pairs.
            second: The second unit of all pairs.
            dim: The dimension of the units.

        Returns:
            A new tensor.
        """
        if self is Pairs.HALVES:
            return torch.cat([first, second], dim)
        dim %= first.dim()
        return torch.stack([first, second], dim + 1).flatten(dim, dim + 1)
