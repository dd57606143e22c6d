"""Tensors of one name from several networks, and computations on them in blocks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

# Numbers of entries per network and block: 2 MB in float64.
_BLOCK = 1 << 18


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
        return torch.tensor(self.weights, dtype=torch.float64, device=self.tensors[0].device)

    def map_values(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the merged tensor of a method that merges entries, given the values of all networks.

        Args:
            function: Function of the values of a block ``[K, n]`` in float64, which returns the merged values ``[n]``;
                called once for each block, in the order of the entries.

        Returns:
            The merged tensor ``[*s]``, with dtype and device of the first network. Values beyond the range of the dtype
            are NaN, which `MergeMethod.merge` reports.
        """
        return self._filled(function(values) for values in _blocks(self.tensors))

    def map_differences(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the base plus a difference that is merged from those of all networks.

        Args:
            function: Function of the differences from the base ``[K, n]`` in float64, which returns the merged
                difference ``[n]``; called once for each block, in the order of the entries.

        Returns:
            As `map_values`.
        """
        blocks = zip(self.difference_blocks(), _blocks((self._required_base(),), self.tensors[0]), strict=True)
        return self._filled(base[0] + function(differences) for differences, base in blocks)

    def difference_blocks(self, network: int | None = None) -> Iterator[Tensor]:
        """Yield the differences of networks from the base, in blocks of entries.

        Args:
            network: Index of a network; all if None.

        Yields:
            ``[K, n]`` in float64, with K = 1 for one network.
        """
        chosen = self.tensors if network is None else (self.tensors[network],)
        like = self.tensors[0]
        for values, base in zip(_blocks(chosen, like), _blocks((self._required_base(),), like), strict=True):
            yield values - base

    def gram(self, *, of_differences: bool = False) -> Tensor:
        """Return the inner products of the networks' tensors.

        Args:
            of_differences: Whether to use the differences from the base.

        Returns:
            ``[K, K]`` in float64, on the CPU.
        """
        total = torch.zeros(len(self.tensors), len(self.tensors), dtype=torch.float64)
        for block in self.difference_blocks() if of_differences else _blocks(self.tensors):
            total += (block @ block.T).cpu()
        return total

    def _required_base(self) -> Tensor:
        if self.base is None:
            message = f"`{self.name}`: expected the tensor of a base to compute differences from it, got none"
            raise InvalidInputError(message)
        return self.base

    def _filled(self, blocks: Iterator[Tensor]) -> Tensor:
        first = self.tensors[0]
        merged = torch.empty(first.shape, dtype=first.dtype, device=first.device)
        flat = merged.view(-1)
        largest = torch.finfo(first.dtype).max
        start = 0
        for block in blocks:
            # Some dtypes saturate, and others become infinite: NaN marks both.
            in_range = block.abs() <= largest
            values = block if bool(in_range.all()) else block.masked_fill(~in_range, torch.nan)
            flat[start : start + len(block)] = values.to(first.dtype)
            start += len(block)
        return merged


def _blocks(tensors: tuple[Tensor, ...], like: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the entries of tensors of one shape as blocks ``[K, n]`` in float64, on the device of ``like``."""
    device = (tensors[0] if like is None else like).device
    # A view where the tensor is contiguous: nothing is read or copied.
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), _BLOCK):
        stop = start + _BLOCK
        yield torch.stack([entries[start:stop].to(device=device, dtype=torch.float64) for entries in flat])
