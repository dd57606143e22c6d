"""The parts of tensors that a specification says something about, each of which has to matter to the output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.checking.draws import is_number
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.cell import cells, map_cells
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.checking.point import Point
    from rebasin_core.symmetry.axis import Atom
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A cell of a tensor on which a group acts; or a tensor that nothing acts on.

    Attributes:
        tensor: Its name.
        group: The group; None for a tensor that nothing acts on.
        cell: The number of the cell, in the order of `symmetry.cells`.
        count: How many cells the tensor has.
    """

    tensor: str
    group: str | None
    cell: int
    count: int

    @property
    def label(self) -> str:
        """How a report names it: the tensor, and which piece of it if it has several."""
        return self.tensor if self.count == 1 else f"{self.tensor} (piece {self.cell + 1} of {self.count})"


def parts_of(layout: Layout, tensors: Mapping[str, Tensor]) -> list[Part]:
    """Return all parts of the tensors of a layout.

    Args:
        layout: The layout.
        tensors: The model's tensors.

    Returns:
        For every tensor that moves, one for each of its cells and each group of two or more units on it; one for every
        other tensor of numbers.
    """
    found: list[Part] = []
    for name, axes in layout.axes.items():
        rows = [atoms for _, atoms in cells(tensors[name], axes)]
        acting = [
            Part(name, group, number, len(rows))
            for number, atoms in enumerate(rows)
            for group in dict.fromkeys(atom.group for atom in atoms if atom.group is not None and atom.size > 1)
        ]
        if not acting and name not in layout.moved and is_number(tensors[name]) and tensors[name].numel():
            acting = [Part(name, None, 0, 1)]
        found += acting
    return found


def restricted(permutation: Permutation, group: str) -> Permutation:
    """Return a permutation restricted to one group, and the groups within it left in order.

    Args:
        permutation: A group element.
        group: A group of its layout.

    Returns:
        The element that moves only that group.
    """
    identity = Permutation.identity(permutation.layout)
    return Permutation(permutation.layout, {**identity.indices, group: permutation.indices[group]})


@final
class Sensitivities:
    """What moving or disturbing each part alone does to the outputs at one point.

    Args:
        layout: The layout that is checked.
        permutation: A group element that leaves no unit in place.
        generator: Source of randomness.
    """

    def __init__(self, layout: Layout, permutation: Permutation, generator: torch.Generator) -> None:
        self._layout = layout
        self._alone = {name: restricted(permutation, name) for name in layout.groups}
        self._generator = generator

    def linear(self, point: Point, parts: Sequence[Part]) -> dict[Part, tuple[float, float]]:
        """Return the effects to first order, from the gradients of a point.

        Args:
            point: A point with gradients.
            parts: The parts to look at.

        Returns:
            For every part the effect of moving and of disturbing it, as the root mean square relative change of the
            outputs; parts without a gradient are left out.
        """
        gradients = point.gradients or {}
        wanted = set(parts)
        found: dict[Part, tuple[float, float]] = {}
        for name in dict.fromkeys(part.tensor for part in parts):
            if name in gradients:
                of_tensor = [part for part in parts if part.tensor == name]
                found |= self._effects(name, gradients[name], point.tensors[name], of_tensor)
        return {part: effect for part, effect in found.items() if part in wanted}

    def _effects(
        self, name: str, gradient: Tensor, tensor: Tensor, parts: Sequence[Part]
    ) -> dict[Part, tuple[float, float]]:
        axes = self._layout.axes[name]
        signs = torch.randint(2, tensor.shape, generator=self._generator).to(tensor.dtype) * 2 - 1
        shaken = _by_cell(_product(gradient, tensor * signs), self._layout, name)
        moved: dict[str, list[float]] = {}
        for group in dict.fromkeys(part.group for part in parts if part.group is not None):
            step = act(self._layout, self._alone[group].indices, tensor, axes) - tensor
            moved[group] = _by_cell(_product(gradient, step), self._layout, name)
        return {
            part: (0.0 if part.group is None else moved[part.group][part.cell], shaken[part.cell]) for part in parts
        }

    def finite(self, point: Point, part: Part) -> tuple[float, float]:
        """Return the effects of one part, from running the model.

        Args:
            point: Any point.
            part: The part.

        Returns:
            The largest relative change of an output when the part is moved, and when it is disturbed.
        """
        moved = 0.0
        if part.group is not None:
            moved = point.error({**point.tensors, part.tensor: self._moved(point, part)})
        return moved, point.error({**point.tensors, part.tensor: self.disturbed(point, part)})

    def together(self, point: Point, parts: Sequence[Part]) -> tuple[float, float]:
        """Return the effects of many parts at once.

        Args:
            point: Any point.
            parts: The parts.

        Returns:
            As in `finite`, for all of them moved, and all of them disturbed.
        """
        moved, shaken = dict(point.tensors), dict(point.tensors)
        for part in parts:
            if part.group is not None:
                other = act(
                    self._layout, self._alone[part.group].indices, moved[part.tensor], self._layout.axes[part.tensor]
                )
                moved[part.tensor] = _only_cell(moved[part.tensor], other, self._layout, part)
            other = self.disturbed(point, part)
            shaken[part.tensor] = _only_cell(shaken[part.tensor], other, self._layout, part)
        return point.error(moved), point.error(shaken)

    def _moved(self, point: Point, part: Part) -> Tensor:
        tensor, axes = point.tensors[part.tensor], self._layout.axes[part.tensor]
        indices = self._alone[part.group or ""].indices
        return _only_cell(tensor, act(self._layout, indices, tensor, axes), self._layout, part)

    def disturbed(self, point: Point, part: Part) -> Tensor:
        """Return a tensor with one of its cells replaced by other values of the same size.

        Args:
            point: Where the values are taken.
            part: The cell.

        Returns:
            A fresh tensor; integers and truth values are exchanged among each other.
        """
        tensor = point.tensors[part.tensor]
        if not is_number(tensor):
            order = torch.randperm(tensor.numel(), generator=self._generator)
            other = tensor.flatten()[order].reshape(tensor.shape)
            if tensor.dtype == torch.bool:
                other = torch.randint(2, tensor.shape, generator=self._generator).bool()
        else:
            noise = torch.randn(tensor.shape, generator=self._generator).to(tensor)
            other = tensor + noise * tensor.abs().double().square().mean().sqrt().clamp_min(0.1).to(noise.dtype)
        return _only_cell(tensor, other, self._layout, part)


def _product(gradient: Tensor, step: Tensor) -> Tensor:
    """Return the terms of the first-order change."""
    # A sum of reals changes by the real part of the conjugate gradient times the step.
    return (gradient.conj() * step).real if step.is_complex() else gradient * step


def _by_cell(terms: Tensor, layout: Layout, name: str) -> list[float]:
    sums = [abs(cell.sum().item()) for cell, _ in cells(terms, layout.axes[name])]
    return [0.0 if math.isnan(value) else value for value in sums]


def _only_cell(tensor: Tensor, other: Tensor, layout: Layout, part: Part) -> Tensor:
    """Return a tensor of which one cell is that of another tensor."""
    numbers: Iterator[int] = iter(range(part.count))

    def mark(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
        del atoms
        return torch.full_like(cell, next(numbers) == part.cell, dtype=torch.bool)

    mask = map_cells(tensor, layout.axes[part.tensor], mark)
    return torch.where(mask, other, tensor)
