"""How far two outputs are apart, entry by entry, in units of what rounding does to each entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Relative size of the disturbance that measures what rounding does, in units of the machine precision. Sums of many
# terms round about as much as this disturbs them.
NOISE = 8.0
# No entry counts as smaller than this part of a small one of its tensor: it is small by accident.
_ACCIDENT = 1e-3
_SMALL = 0.1


@final
@dataclass(frozen=True, slots=True)
class Ruler:
    """The outputs of a model at one point, and for each entry of them the size that changes are compared with.

    That size is the entry itself, or what it would have to be for its rounding errors to be ordinary ones, whichever is
    larger. So an error of the machine precision is one of rounding for every entry: a constant that masks, an entry of
    a small head beside a large one, a difference of large numbers.

    Attributes:
        outputs: The outputs, as real tensors.
        sizes: For each floating output a tensor of the same shape; 0 where there is nothing to compare with (infinite
            or NaN entries; entries that are 0 and stay 0). None for whole numbers and truth values.
    """

    outputs: tuple[Tensor, ...]
    sizes: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, outputs: Sequence[Tensor], disturbed: Sequence[Tensor], precision: float) -> Ruler | None:
        """Return the ruler of some outputs.

        Args:
            outputs: The outputs.
            disturbed: The same with inputs and parameters disturbed by `NOISE` times the machine precision.
            precision: The machine precision of the arithmetic.

        Returns:
            The ruler; None if rounding alone changes the number of outputs or a whole number.
        """
        first, second = [_real(output) for output in outputs], [_real(output) for output in disturbed]
        if [output.shape for output in first] != [output.shape for output in second]:
            return None
        sizes: list[Tensor | None] = []
        for output, other in zip(first, second, strict=True):
            if output.is_floating_point():
                sizes.append(_sizes(output, other, precision))
            elif torch.equal(output, other):
                sizes.append(None)
            else:
                return None
        return cls(tuple(first), tuple(sizes))

    @property
    def is_blind(self) -> bool:
        """Whether no entry is a finite number or a whole one."""
        return not any(
            output.numel() and (size is None or bool(torch.isfinite(output).any()))
            for output, size in zip(self.outputs, self.sizes, strict=True)
        )

    def changes(self, found: Sequence[Tensor]) -> list[Tensor] | None:
        """Return how far other outputs are away, entry by entry.

        Args:
            found: Other outputs of the same model.

        Returns:
            One tensor for each output; None if the shapes are others.
        """
        others = [_real(output) for output in found]
        if [output.shape for output in others] != [output.shape for output in self.outputs]:
            return None
        return list(starmap(_change, zip(others, self.outputs, self.sizes, strict=True)))

    def error(self, found: Sequence[Tensor]) -> float:
        """Return the largest change of an entry.

        Args:
            found: Other outputs of the same model.

        Returns:
            The change relative to the entry's size; infinite if shapes, whole numbers or infinities differ.
        """
        changes = self.changes(found)
        if changes is None:
            return math.inf
        return max((change.max().item() for change in changes if change.numel()), default=0.0)

    def random_sum(self, outputs: Sequence[Tensor], generator: torch.Generator) -> Tensor | None:
        """Return a sum of all entries with random signs, each in units of its size.

        Args:
            outputs: The outputs that this is the ruler of, with their gradients.
            generator: Source of the signs.

        Returns:
            A scalar whose change is about the root mean square change of the entries; None if nothing in it has a
            gradient.
        """
        total: Tensor | None = None
        count = 0
        for output, size in zip((_real(output) for output in outputs), self.sizes, strict=True):
            if size is None or not output.requires_grad:
                continue
            signs = torch.randint(2, output.shape, generator=generator).to(output) * 2 - 1
            weights = torch.where(size > 0, signs / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
            part = torch.where(weights != 0, output * weights, 0.0).sum()
            total = part if total is None else total + part
            count += int((weights != 0).sum())
        return None if total is None else total / math.sqrt(max(count, 1))


def _real(output: Tensor) -> Tensor:
    """Return an output as a dense real tensor."""
    dense = output.to_dense() if output.layout is not torch.strided else output
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def _sizes(output: Tensor, disturbed: Tensor, precision: float) -> Tensor:
    noise = (disturbed - output).detach().abs() / (NOISE * precision)
    sizes = torch.maximum(output.detach().abs(), noise)
    sizes = torch.where(torch.isfinite(output) & torch.isfinite(sizes), sizes, 0.0)
    responding = sizes[(noise > 0) & (sizes > 0)]
    if responding.numel():
        small = responding.kthvalue(max(1, int(_SMALL * responding.numel()))).values
        sizes = torch.where(torch.isfinite(output), sizes.clamp_min(_ACCIDENT * small), 0.0)
    return sizes


def _change(found: Tensor, expected: Tensor, size: Tensor | None) -> Tensor:
    equal = (found == expected) | (found.isnan() & expected.isnan())
    if size is None:
        return torch.where(equal, 0.0, math.inf).double()
    change = (found - expected).abs() / size
    unequal = torch.where(change.isnan() | (size == 0), math.inf, change)
    return torch.where(equal, 0.0, unequal)
