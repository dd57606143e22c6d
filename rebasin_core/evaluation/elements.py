"""Elements of targets with several predictions per example: pixels, tokens, entries of a dense regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Elements:
    """Outputs and targets of a batch, one row per element. Elements with ignored targets are omitted.

    Attributes:
        outputs: ``[M, num_outputs(K)]``: outputs for M elements, in the order of the examples.
        targets: ``[M]`` or ``[M, K]``.
        examples: ``[M]``: index of the example of each element.
        weights: ``[M]``: relative weights of the elements in the mean loss; None for equal weights.
    """

    outputs: Tensor
    targets: Tensor
    examples: Tensor
    weights: Tensor | None = None

    @classmethod
    def of_entries(cls, outputs: Tensor, targets: Tensor, kept: Tensor | None = None) -> Elements:
        """Return every entry of the targets as an element.

        Args:
            outputs: ``[N, ..., F]``: F outputs for each entry of the targets.
            targets: ``[N, ...]``.
            kept: ``[N, ...]``: whether to keep each entry; all if None.

        Returns:
            Elements with outputs ``[M, F]`` and targets ``[M, 1]``.
        """
        rows = outputs.reshape(-1, outputs.shape[-1])
        flat = targets.reshape(-1, 1)
        examples = example_indices(targets)
        if kept is None:
            return cls(rows, flat, examples)
        mask = kept.reshape(-1)
        return cls(rows[mask], flat[mask], examples[mask])

    def summed(self, values: Tensor, count: int) -> Tensor:
        """Return the sum of values over the elements of each example.

        Args:
            values: ``[M]``; multiplied by the weights.
            count: Number N of examples.

        Returns:
            ``[N]``; 0 for an example without elements.
        """
        weighted = values if self.weights is None else values * self.weights
        return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, self.examples, weighted)


def example_indices(targets: Tensor) -> Tensor:
    """Return the index of the example of each entry of targets, flattened.

    Args:
        targets: ``[N, ...]``.

    Returns:
        ``[numel]``: 0, ..., 0, 1, ..., 1, ..., N - 1.
    """
    index = torch.arange(len(targets), device=targets.device)
    return index.reshape(-1, *[1] * (targets.dim() - 1)).expand(targets.shape).reshape(-1)
