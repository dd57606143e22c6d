"""The action of linear maps of units on tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.action import broadcast_to_dims
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Product
from rebasin_core.symmetry.cell import atom_rows, cells, map_cells
from rebasin_core.symmetry.kind import Kind, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.linear import Symmetry
    from rebasin_core.symmetry.unit_map import UnitMap


def act_linearly(
    symmetry: Symmetry, maps: Sequence[UnitMap | None], name: str, tensor: Tensor, *, dims: Sequence[int] | None = None
) -> Tensor:
    """Return a tensor transformed by linear maps, without any permutation.

    The result is computed in double precision and rounded to the dtype of the tensor. It is differentiable in the
    tensor and in the maps.

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
    acting = {
        slot: (index, symmetry.linear[index].degrees[slot])
        for slot, index in symmetry.by_tensor.get(name, ())
        if maps[index] is not None and slot.dim in kept
    }
    if not acting:
        return tensor
    if not (tensor.is_floating_point() or tensor.is_complex()):
        linear = symmetry.linear[next(iter(acting.values()))[0]]
        message = (
            f"`{name}`: expected floating-point numbers, got {tensor.dtype}, which maps of kind {linear.kind} of group "
            f"{linear.group!r} cannot transform; convert or dequantize it first"
        )
        raise InvalidInputError(message)
    groups: dict[str, str] = {}
    labeled = [_labeled(axes[dim], dim, [0], groups) for dim in kept]
    if dims is not None:
        _require_outer(symmetry, acting, labeled, groups, name)
    working = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)

    def transform(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
        lead = cell.dim() - len(atoms)
        labels = [str(atom.group) for atom in atoms]
        dim_of = {groups.get(label, ""): lead + position for position, label in enumerate(labels)}
        for slot, (index, degree) in acting.items():
            unit_map = maps[index]
            if unit_map is not None and _label(slot.dim, slot.number) in labels:
                outer = symmetry.layout.ancestors(symmetry.linear[index].group)
                own = lead + labels.index(_label(slot.dim, slot.number))
                at = [*(dim_of[group] for group in outer), own]
                cell = _applied(unit_map.kind, unit_map.of_degree(degree), cell, at)
        return cell

    return map_cells(working, labeled, transform).to(tensor.dtype)


def slot_cells(symmetry: Symmetry, slot: Slot, tensor: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield the parts of a tensor that a map of a slot transforms.

    Args:
        symmetry: The linear symmetries.
        slot: A slot of a tensor in the layout.
        tensor: ``[*lead, *s]`` with the shape of this tensor.

    Yields:
        A part of the tensor, and the dimension of it that the map transforms.
    """
    axes = symmetry.layout.axes[slot.tensor]
    labeled = [_labeled(axis, dim, [0], {}) for dim, axis in enumerate(axes)]
    for cell, atoms in cells(tensor, labeled):
        for position, atom in enumerate(atoms):
            if atom.group == _label(slot.dim, slot.number):
                yield cell, cell.dim() - len(atoms) + position


def _applied(kind: Kind, value: Tensor, cell: Tensor, dims: list[int]) -> Tensor:
    """Return a cell with a map applied to its dimension ``dims[-1]``; the others are those of the outer groups."""
    value = value.to(device=cell.device, dtype=cell.dtype)
    if kind.is_factor:
        return cell * broadcast_to_dims(value, dims, cell.dim())
    if kind is Kind.ROTATION:
        real = broadcast_to_dims(value[..., 0], dims, cell.dim())
        imag = broadcast_to_dims(value[..., 1], dims, cell.dim())
        first, second = cell.chunk(2, dim=dims[-1])
        return torch.cat([real * first - imag * second, imag * first + real * second], dim=dims[-1])
    front = [*range(len(dims))]
    moved = cell.movedim(dims, front)
    rows = moved.reshape(*moved.shape[: len(dims)], -1)
    return (value @ rows).reshape(moved.shape).movedim(front, dims)


def _require_outer(
    symmetry: Symmetry,
    acting: Mapping[Slot, tuple[int, int]],
    labeled: Sequence[Axis],
    groups: Mapping[str, str],
    name: str,
) -> None:
    """Raise if the outer group of a group with a map has no axis in a cell."""
    for row in atom_rows(labeled):
        labels = [str(atom.group) for atom in row]
        present = {groups[label] for label in labels if label in groups}
        for slot, (index, _) in acting.items():
            linear = symmetry.linear[index]
            missing = [outer for outer in symmetry.layout.ancestors(linear.group) if outer not in present]
            if missing and _label(slot.dim, slot.number) in labels:
                message = (
                    f"cannot transform a tensor attached to `{name}`: group {linear.group!r} is nested in "
                    f"{missing[0]!r}, which acts on another axis; use a posterior whose tensors have the shapes of "
                    "whole parameters"
                )
                raise InvalidInputError(message)


def _label(dim: int, number: int) -> str:
    """Return the name of an occurrence of a group."""
    return f"{dim}.{number}"


def _labeled(axis: Axis, dim: int, counter: list[int], groups: dict[str, str]) -> Axis:
    """Return an axis with a name of its own for every atom with a group.

    The names survive the division into cells, where the position of an atom on its axis is lost.
    """
    match axis:
        case Atom(size, group):
            label = _label(dim, counter[0])
            counter[0] += 1
            if group is None:
                return axis
            groups[label] = group
            return Atom(size, label)
        case Product(factors):
            return Product(tuple(_labeled(factor, dim, counter, groups) for factor in factors))
        case Concat(parts):
            return Concat(tuple(_labeled(part, dim, counter, groups) for part in parts))
