"""Examples in memory, and batches of them."""

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
    """Inputs and targets of a dataset.

    Attributes:
        inputs: Normalized inputs ``[N, ...]``, floating-point.
        targets: Class labels ``[N]``, or regression targets ``[N, K]``.

    Raises:
        InvalidInputError: On construction, if the numbers of inputs and targets differ.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Raise if the numbers of inputs and targets differ."""
        if len(self.inputs) != len(self.targets):
            message = f"expected one target per input, got {len(self.targets)} targets and {len(self.inputs)} inputs"
            raise InvalidInputError(message)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.inputs)

    def first(self, count: int | None) -> Examples:
        """Return the first ``count`` examples.

        Args:
            count: Maximum number of examples; all if None.

        Returns:
            At most ``count`` examples.
        """
        return self if count is None else Examples(self.inputs[:count], self.targets[:count])

    def split(self, fraction: float) -> tuple[Examples, Examples]:
        """Split the examples into two parts, in their order.

        Args:
            fraction: Fraction of examples in the second part, in [0, 1).

        Returns:
            The first and the second part; the second is empty for a fraction of 0.
        """
        count = len(self) - round(fraction * len(self))
        return Examples(self.inputs[:count], self.targets[:count]), Examples(self.inputs[count:], self.targets[count:])

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None) -> TensorBatches:
        """Return the examples in batches.

        Args:
            batch_size: Number of examples per batch, at least 1; the last batch may be smaller.
            shuffle_seed: Seed of the order, which depends only on this seed and the epoch; not shuffled if None.

        Returns:
            A reusable iterable of batches.
        """
        return TensorBatches(self, batch_size, shuffle_seed=shuffle_seed)


@final
class TensorBatches:
    """Reusable iterable of batches ``(inputs, targets)`` of examples in memory.

    Args:
        examples: The examples.
        batch_size: Number of examples per batch, at least 1; the last batch may be smaller.
        shuffle_seed: Seed of the order, which depends only on this seed and the epoch; not shuffled if None.

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
        """Set the epoch, which determines the order of the following passes.

        Args:
            epoch: Index of the epoch, from 0.
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
    """Return a seed for an epoch: a multiplicative hash with Knuth's constant, distinct for nearby seeds and epochs."""
    return (seed * 2654435761 + epoch * 40503 + 1) % 2**62
