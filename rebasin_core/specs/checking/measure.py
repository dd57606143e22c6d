"""Differences between outputs, entry by entry, relative to a scale at which rounding errors are ordinary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Relative size of the perturbation that estimates rounding errors, in units of the machine precision: about the error
# of a sum of many terms.
NOISE = 8.0
# The scale of an entry is at least `_ACCIDENT` times the `_SMALL` quantile of its tensor: a smaller entry is a
# coincidence.
_ACCIDENT = 1e-3
_SMALL = 0.1


@final
@dataclass(frozen=True, slots=True)
class OutputScales:
    """The outputs of a model at one point, with the scale of each entry: changes are relative to it.

    The scale is max(|y|, nu / eps), where nu is the change of y under a perturbation of relative size eps. A relative
    error of the order of the machine precision is then a rounding error for every entry: also for a constant of a
    mask, for outputs of different magnitudes, and for a difference of large numbers.

    Attributes:
        outputs: The outputs, as real tensors.
        sizes: Scales: for each floating-point output a tensor of the same shape; 0 for infinite and NaN entries, and
            for entries that are 0 under perturbation, too. None for integer and boolean outputs.
    """

    outputs: tuple[Tensor, ...]
    sizes: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, outputs: Sequence[Tensor], perturbed: Sequence[Tensor], precision: float) -> OutputScales | None:
        """Compute the scales of some outputs.

        Args:
            outputs: The outputs.
            perturbed: The outputs with inputs and parameters perturbed by `NOISE` times the machine precision.
            precision: The machine precision.

        Returns:
            The outputs with their scales; None if the perturbation changes the shape of an output or an integer.
        """
        first, second = [_real(output) for output in outputs], [_real(output) for output in perturbed]
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
    def lacks_finite_entries(self) -> bool:
        """Whether no entry is a finite number, integer or boolean."""
        return not any(
            output.numel() and (size is None or bool(torch.isfinite(output).any()))
            for output, size in zip(self.outputs, self.sizes, strict=True)
        )

    def changes(self, found: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the relative change of each entry in other outputs.

        Args:
            found: Other outputs of the same model.

        Returns:
            One tensor for each output; None if the shapes differ.
        """
        others = [_real(output) for output in found]
        if [output.shape for output in others] != [output.shape for output in self.outputs]:
            return None
        return list(starmap(_change, zip(others, self.outputs, self.sizes, strict=True)))

    def error(self, found: Sequence[Tensor]) -> float:
        """Return the largest relative change of an entry.

        Args:
            found: Other outputs of the same model.

        Returns:
            The change relative to the scale of the entry; infinite if shapes, integers or infinities differ.
        """
        changes = self.changes(found)
        if changes is None:
            return math.inf
        return max((change.max().item() for change in changes if change.numel()), default=0.0)

    def random_sum(self, outputs: Sequence[Tensor], generator: torch.Generator) -> Tensor | None:
        """Return a normalized sum of all entries with random signs, each divided by its scale.

        Args:
            outputs: The outputs, with gradients.
            generator: Random number generator of the signs.

        Returns:
            A scalar whose change is about the root mean square relative change of the entries; None if no entry has a
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


def _sizes(output: Tensor, perturbed: Tensor, precision: float) -> Tensor:
    noise = (perturbed - output).detach().abs() / (NOISE * precision)
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
