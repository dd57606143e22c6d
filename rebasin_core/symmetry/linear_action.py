"""The action of linear maps of units on tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.action import broadcast_to_dims
from rebasin_core.symmetry.cell import atom_rows, map_cells
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.slots import label_of, labeled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Atom, Axis
    from rebasin_core.symmetry.kind import Slot
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
    from rebasin_core.symmetry.unit_map import UnitMap


def act_linearly(
    symmetry: Symmetry, maps: Sequence[UnitMap | None], name: str, tensor: Tensor, *, dims: Sequence[int] | None = None
) -> Tensor:
    """Return a tensor transformed by linear maps, without any permutation.

    The result is computed in double precision and rounded to the dtype of the tensor. It is differentiable in the
    tensor and in the maps. Flips act as signs: on tensors in centered coordinates (see `Shift`).

    Args:
        symmetry: The linear symmetries.
        maps: One map per linear symmetry; None for the identity.
        name: Name of a tensor in the layout.
        tensor: ``[*lead, *sizes]`` with the sizes of its axes.
        dims: Indices of the axes that the trailing dimensions of ``tensor`` have; all if None.

    Returns:
        The transformed tensor; the same object if no map acts on it.

    Raises:
        InvalidInputError: If a map acts on an integer tensor, or depends on an outer group whose axis is omitted.
    """
    axes = symmetry.layout.axes[name]
    kept = range(len(axes)) if dims is None else dims
    acting = [
        (slot, symmetry.linear[index], found)
        for slot, index in symmetry.by_tensor.get(name, ())
        if (found := maps[index]) is not None and slot.dim in kept
    ]
    if not acting:
        return tensor
    if not (tensor.is_floating_point() or tensor.is_complex()):
        linear = acting[0][1]
        message = (
            f"`{name}`: expected floating-point numbers, got {tensor.dtype}, which maps of kind {linear.kind} of group "
            f"{linear.group!r} cannot transform; convert or dequantize it first"
        )
        raise InvalidInputError(message)
    groups: dict[str, str] = {}
    axes_of_labels = [labeled(axes[dim], dim, groups) for dim in kept]
    if dims is not None:
        _require_outer(symmetry.layout, [(slot, linear) for slot, linear, _ in acting], axes_of_labels, groups)
    working = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)

    def transform(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
        lead = cell.dim() - len(atoms)
        labels = [str(atom.group) for atom in atoms]
        dim_of = {groups.get(label, ""): lead + position for position, label in enumerate(labels)}
        for slot, linear, unit_map in acting:
            if label_of(slot) in labels:
                outer = symmetry.layout.ancestors(linear.group)
                at = [*(dim_of[group] for group in outer), lead + labels.index(label_of(slot))]
                cell = _applied(linear, unit_map.of_degree(linear.degrees[slot]), cell, at)
        return cell

    return map_cells(working, axes_of_labels, transform).to(tensor.dtype)


def _applied(linear: LinearSymmetry, value: Tensor, cell: Tensor, dims: list[int]) -> Tensor:
    """Return a cell with a map applied to its dimension ``dims[-1]``; the others are those of the outer groups."""
    value = value.to(device=cell.device, dtype=cell.dtype)
    if linear.kind.is_factor:
        return cell * broadcast_to_dims(value, dims, cell.dim())
    if linear.kind is Kind.ROTATION:
        real = broadcast_to_dims(value[..., 0], dims, cell.dim())
        imag = broadcast_to_dims(value[..., 1], dims, cell.dim())
        first, second = linear.pairs.parts(cell, dims[-1])
        return linear.pairs.joined(real * first - imag * second, imag * first + real * second, dims[-1])
    front = [*range(len(dims))]
    moved = cell.movedim(dims, front)
    rows = moved.reshape(*moved.shape[: len(dims)], -1)
    return (value @ rows).reshape(moved.shape).movedim(front, dims)


def _require_outer(
    layout: Layout, acting: Sequence[tuple[Slot, LinearSymmetry]], axes: Sequence[Axis], groups: Mapping[str, str]
) -> None:
    """Raise if the outer group of a group with a map has no axis in a cell."""
    for row in atom_rows(axes):
        labels = [str(atom.group) for atom in row]
        present = {groups[label] for label in labels if label in groups}
        for slot, linear in acting:
            missing = [outer for outer in layout.ancestors(linear.group) if outer not in present]
            if missing and label_of(slot) in labels:
                message = (
                    f"cannot transform a tensor attached to `{slot.tensor}`: group {linear.group!r} is nested in "
                    f"{missing[0]!r}, which acts on another axis; use a posterior whose tensors have the shapes of "
                    "whole parameters"
                )
                raise InvalidInputError(message)
