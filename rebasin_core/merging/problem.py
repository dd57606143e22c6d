"""Tensors of one name from several networks, and computations on them in blocks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

# Number of entries per network and block: 0.5 MB in float64. The blocks of a few networks fit into a cache.
_BLOCK = 1 << 16


@final
@dataclass(frozen=True, slots=True, eq=False)
class MergeProblem:
    """Validated tensors of one name to merge.

    `map_values` and `map_differences` compute the merged tensor in blocks of entries, widened to float64. Therefore the
    memory in addition to the inputs is the merged tensor and a few blocks.

    Attributes:
        name: Name of the tensor.
        tensors: Tensors of the K networks, ``[*s]`` each, with floating-point dtypes.
        weights: K weights: normalized to sum 1, or the coefficients as given (`MergeMethod.weighting`).
        base: Tensor of the base ``[*s]``; None for methods without a base.
        seed: Seed of random numbers.
    """

    name: str
    tensors: tuple[Tensor, ...]
    weights: tuple[float, ...]
    base: Tensor | None = None
    seed: int = 0

    @property
    def numel(self) -> int:
        """Number of entries of each tensor."""
        return self.tensors[0].numel()

    @property
    def weight_vector(self) -> Tensor:
        """The weights as a tensor ``[K]`` in float64, on the device of the first network."""
        return torch.tensor(self.weights, dtype=torch.float64).to(self.tensors[0].device)

    def map_values(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the merged tensor of a method that merges entries, given the values of all networks.

        Args:
            function: Function of the values of a block ``[K, n]`` in float64, which returns the merged values ``[n]``;
                called once for each block, in the order of the entries. It may overwrite the block, and must not keep
                it: the next block uses the same memory.

        Returns:
            The merged tensor ``[*s]``, with dtype and device of the first network. Values beyond the range of the dtype
            are NaN, which `MergeMethod.merge` reports.
        """
        return self._filled(function(values) for values in blocks_of(self.tensors))

    def map_differences(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the base plus a difference that is merged from those of all networks.

        Args:
            function: Function of the differences from the base ``[K, n]`` in float64, which returns the merged
                difference ``[n]``; otherwise as in `map_values`.

        Returns:
            As `map_values`.
        """
        return self._filled(base + function(differences) for differences, base in self._differences(self.tensors))

    def difference_blocks(self, network: int | None = None) -> Iterator[Tensor]:
        """Yield the differences of networks from the base, in blocks of entries; each overwrites the one before.

        Args:
            network: Index of a network; all if None.

        Yields:
            ``[K, n]`` in float64, with K = 1 for one network.
        """
        for differences, _ in self._differences(self.tensors if network is None else (self.tensors[network],)):
            yield differences

    def gram(self, *, of_differences: bool = False) -> Tensor:
        """Return the inner products of the networks' tensors.

        Args:
            of_differences: Whether to use the differences from the base.

        Returns:
            ``[K, K]`` in float64, on the CPU.
        """
        total = torch.zeros(len(self.tensors), len(self.tensors), dtype=torch.float64)
        for block in self.difference_blocks() if of_differences else blocks_of(self.tensors):
            total += (block @ block.T).cpu()
        return total

    def are_equal(self) -> bool:
        """Return whether the tensors of all networks, and the base, are equal.

        Returns:
            True if so; false if an entry is NaN.
        """
        every = self.tensors if self.base is None else (*self.tensors, self.base)
        return all(bool((block == block[0]).all()) for block in blocks_of(every))

    def _differences(self, chosen: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of differences from the base ``[K, n]``, and of the base ``[n]``."""
        if self.base is None:
            message = f"`{self.name}`: expected the tensor of a base to compute differences from it, got none"
            raise InvalidInputError(message)
        for block in blocks_of((*chosen, self.base), self.tensors[0]):
            yield block[:-1].sub_(block[-1]), block[-1]

    def _filled(self, blocks: Iterator[Tensor]) -> Tensor:
        first = self.tensors[0]
        merged = torch.empty(first.shape, dtype=first.dtype, device=first.device)
        flat = merged.view(-1)
        largest = torch.finfo(first.dtype).max
        start = 0
        for block in blocks:
            extremes = block.aminmax()
            if not -largest <= extremes.min.item() <= extremes.max.item() <= largest:
                # Some dtypes saturate, and others become infinite: NaN marks both.
                block.masked_fill_((block.abs() <= largest).logical_not_(), torch.nan)
            flat[start : start + len(block)].copy_(block)
            start += len(block)
        return merged


def blocks_of(tensors: tuple[Tensor, ...], like: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the entries of tensors of one shape in blocks; each overwrites the one before.

    Args:
        tensors: K tensors of one shape, with any dtypes of real numbers and devices.
        like: Tensor whose device is that of the blocks; the first tensor if None.

    Yields:
        ``[K, n]`` in float64.
    """
    device = (tensors[0] if like is None else like).device
    # Contiguous tensors are not copied, and mapped ones are not read before they are used.
    flat = [tensor.reshape(-1) for tensor in tensors]
    count = flat[0].numel()
    # One memory for all blocks: new memory for each is several times slower than the computation.
    memory = torch.empty(len(flat), min(count, _BLOCK), dtype=torch.float64, device=device)
    for start in range(0, count, _BLOCK):
        block = memory[:, : count - start]
        for row, entries in zip(block, flat, strict=True):
            row.copy_(entries[start : start + _BLOCK])
        yield block
