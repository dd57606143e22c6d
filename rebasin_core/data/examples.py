"""Examples held in memory, and batches of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and targets of a data set.

    Attributes:
        inputs: ``[N, ...]``, floating, normalised.
        targets: ``[N]`` class numbers, or ``[N, K]`` floating targets.

    Raises:
        InvalidInputError: On construction, if their numbers differ.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Check that there is a target for every input."""
        if len(self.inputs) != len(self.targets):
            message = f"expected as many targets as inputs, got {len(self.targets)} and {len(self.inputs)}"
            raise InvalidInputError(message)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.inputs)

    def first(self, count: int | None) -> Examples:
        """Return the first examples.

        Args:
            count: How many; None for all.

        Returns:
            At most ``count`` examples.
        """
        return self if count is None else Examples(self.inputs[:count], self.targets[:count])

    def split(self, fraction: float) -> tuple[Examples, Examples]:
        """Return the examples in two parts.

        Args:
            fraction: Size of the second part, taken from the end, in [0, 1).

        Returns:
            The first and the second part; the second is empty for a fraction of 0.
        """
        count = len(self) - round(fraction * len(self))
        return Examples(self.inputs[:count], self.targets[:count]), Examples(self.inputs[count:], self.targets[count:])

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None) -> TensorBatches:
        """Return the examples in batches.

        Args:
            batch_size: Examples a batch, at least 1; the last batch may be smaller.
            shuffle_seed: If given, every pass is in a new random order that depends on this seed and the epoch alone.

        Returns:
            An iterable that can be read again and again.
        """
        return TensorBatches(self, batch_size, shuffle_seed=shuffle_seed)


@final
class TensorBatches:
    """Batches of examples held in memory.

    Args:
        examples: The examples.
        batch_size: Examples a batch, at least 1.
        shuffle_seed: Seed of the order; None keeps the order of the examples.

    Raises:
        InvalidInputError: If the batch size is less than 1.

    Examples:
        >>> import torch
        >>> examples = Examples(torch.zeros(5, 2), torch.arange(5))
        >>> [len(targets) for _, targets in TensorBatches(examples, 2)]
        [2, 2, 1]
    """

    def __init__(self, examples: Examples, batch_size: int, *, shuffle_seed: int | None = None) -> None:
        if batch_size < 1:
            message = f"expected a batch size of at least 1, got {batch_size!r}"
            raise InvalidInputError(message)
        self._examples = examples
        self._batch_size = batch_size
        self._seed = shuffle_seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass.

        Args:
            epoch: The number of the epoch, from 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self._examples) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(inputs, targets)`` batches."""
        inputs, targets = self._examples.inputs, self._examples.targets
        if self._seed is None:
            yield from zip(inputs.split(self._batch_size), targets.split(self._batch_size), strict=True)
            return
        generator = torch.Generator().manual_seed(_mixed(self._seed, self._epoch))
        for index in torch.randperm(len(inputs), generator=generator).split(self._batch_size):
            yield inputs[index], targets[index]


def _mixed(seed: int, epoch: int) -> int:
    """Return a seed that differs between neighbouring seeds and epochs (a multiplicative hash, Knuth's constant)."""
    return (seed * 2654435761 + epoch * 40503 + 1) % 2**62
