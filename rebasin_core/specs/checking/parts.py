"""The parts of tensors whose axes a specification describes, and their effects on the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.checking.draws import is_number, random_signs
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
    """A cell of a tensor on which a group acts, or a whole tensor on which no group acts.

    Attributes:
        tensor: Name of the tensor.
        group: The group; None if no group acts on the tensor.
        cell: Index of the cell, in the order of `symmetry.cells`.
        count: Number of cells of the tensor.
    """

    tensor: str
    group: str | None
    cell: int
    count: int

    @property
    def label(self) -> str:
        """Name in reports: the tensor, and the piece if it has several."""
        return self.tensor if self.count == 1 else f"{self.tensor} (piece {self.cell + 1} of {self.count})"


def parts_of(layout: Layout, tensors: Mapping[str, Tensor]) -> list[Part]:
    """Return all parts of the tensors of a layout.

    Args:
        layout: The layout.
        tensors: The model's tensors.

    Returns:
        For every permuted tensor, one part for each pair of a cell and a group of at least two units on it; for every
        other floating-point or complex tensor one part.
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
    """Restrict a permutation to one group; all other groups, including its inner groups, are not permuted.

    Args:
        permutation: A group element.
        group: Name of a group in its layout.

    Returns:
        The element that permutes only that group.
    """
    identity = Permutation.identity(permutation.layout)
    return Permutation(permutation.layout, {**identity.indices, group: permutation.indices[group]})


@final
class Sensitivities:
    """Effects on the outputs of permuting or perturbing single parts.

    Args:
        layout: The layout to check.
        permutation: A group element without fixed points.
        generator: Source of randomness.
    """

    def __init__(self, layout: Layout, permutation: Permutation, generator: torch.Generator) -> None:
        self._layout = layout
        self._alone = {name: restricted(permutation, name) for name in layout.groups}
        self._generator = generator

    def linear(self, point: Point, parts: Sequence[Part]) -> dict[Part, tuple[float, float]]:
        """Return the effects to first order, from the gradients at a point.

        Args:
            point: A point with gradients.
            parts: The parts to examine.

        Returns:
            For every part the effects of permuting and of perturbing it, as root mean square relative changes of the
            outputs; parts without a gradient are omitted.
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
        step = tensor * random_signs(tensor, self._generator)
        perturbed = _by_cell(_product(gradient, step), self._layout, name)
        permuted: dict[str, list[float]] = {}
        for group in dict.fromkeys(part.group for part in parts if part.group is not None):
            step = act(self._layout, self._alone[group].indices, tensor, axes) - tensor
            permuted[group] = _by_cell(_product(gradient, step), self._layout, name)
        return {
            part: (0.0 if part.group is None else permuted[part.group][part.cell], perturbed[part.cell])
            for part in parts
        }

    def finite(self, point: Point, part: Part) -> tuple[float, float]:
        """Return the effects of one part, by running the model.

        Args:
            point: Any point.
            part: The part.

        Returns:
            The largest relative changes of an output when the part is permuted, and when it is perturbed.
        """
        permuted = 0.0
        if part.group is not None:
            permuted = point.error({**point.tensors, part.tensor: self._permuted(point, part)})
        return permuted, point.error({**point.tensors, part.tensor: self.perturbed(point, part)})

    def joint(self, point: Point, parts: Sequence[Part]) -> tuple[float, float]:
        """Return the joint effects of several parts.

        Args:
            point: Any point.
            parts: The parts.

        Returns:
            As in `finite`, with all parts permuted, and with all parts perturbed.
        """
        permuted, perturbed = dict(point.tensors), dict(point.tensors)
        for part in parts:
            if part.group is not None:
                other = act(
                    self._layout, self._alone[part.group].indices, permuted[part.tensor], self._layout.axes[part.tensor]
                )
                permuted[part.tensor] = _only_cell(permuted[part.tensor], other, self._layout, part)
            other = self.perturbed(point, part)
            perturbed[part.tensor] = _only_cell(perturbed[part.tensor], other, self._layout, part)
        return point.error(permuted), point.error(perturbed)

    def _permuted(self, point: Point, part: Part) -> Tensor:
        tensor, axes = point.tensors[part.tensor], self._layout.axes[part.tensor]
        indices = self._alone[part.group or ""].indices
        return _only_cell(tensor, act(self._layout, indices, tensor, axes), self._layout, part)

    def perturbed(self, point: Point, part: Part) -> Tensor:
        """Return a tensor with one of its cells perturbed by noise of the magnitude of its entries.

        Args:
            point: The point with the values of the tensor.
            part: The cell.

        Returns:
            A new tensor; integers are shuffled, booleans drawn at random.
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
    # A real function of complex numbers changes by the real part of the conjugate gradient times the step.
    return (gradient.conj() * step).real if step.is_complex() else gradient * step


def _by_cell(terms: Tensor, layout: Layout, name: str) -> list[float]:
    sums = [abs(cell.sum().item()) for cell, _ in cells(terms, layout.axes[name])]
    return [0.0 if math.isnan(value) else value for value in sums]


def _only_cell(tensor: Tensor, other: Tensor, layout: Layout, part: Part) -> Tensor:
    """Return a tensor with one cell replaced by that of another tensor."""
    indices: Iterator[int] = iter(range(part.count))

    def mark(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
        del atoms
        return torch.full_like(cell, next(indices) == part.cell, dtype=torch.bool)

    mask = map_cells(tensor, layout.axes[part.tensor], mark)
    return torch.where(mask, other, tensor)
