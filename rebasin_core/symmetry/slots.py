"""Slots of groups: where a group occurs on the tensors of a layout, and the entries of each of its units there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Product, atoms_of
from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.kind import Kind, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import LinearSymmetry


def slots_of(layout: Layout, group: str) -> tuple[Slot, ...]:
    """Return all slots of a group, in the order of the layout.

    Args:
        layout: The groups and axes.
        group: Name of a group.

    Returns:
        The slots.
    """
    return tuple(
        Slot(name, dim, number)
        for name, axes in layout.axes.items()
        for dim, axis in enumerate(axes)
        for number, atom in enumerate(atoms_of(axis))
        if atom.group == group
    )


def contains_permutations(layout: Layout, linear: LinearSymmetry) -> bool:
    """Return whether the maps of a linear symmetry contain the permutations of its group.

    Args:
        layout: The groups and axes.
        linear: A linear symmetry.

    Returns:
        Whether they are matrices that transform all axes on which the group acts.
    """
    if linear.kind.is_factor or linear.kind is Kind.ROTATION:
        return False
    slots = {slot for slot in slots_of(layout, linear.group) if slot.tensor not in linear.required}
    return slots == linear.degrees.keys()


def slot_cells(layout: Layout, slot: Slot, tensor: Tensor) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the parts of a tensor that belong to a slot.

    Args:
        layout: The groups and axes.
        slot: A slot of a tensor in the layout.
        tensor: ``[*lead, *s]`` with the shape of this tensor.

    Yields:
        A part of the tensor, a view if possible, and its dimensions that have the outer groups and the group, in the
        order of the shape of an index.
    """
    groups: dict[str, str] = {}
    axes = [labeled(axis, dim, groups) for dim, axis in enumerate(layout.axes[slot.tensor])]
    own = label_of(slot)
    for cell, atoms in cells(tensor, axes):
        labels = [str(atom.group) for atom in atoms]
        if own in labels:
            lead = cell.dim() - len(atoms)
            outer = layout.ancestors(groups[own])
            at = [next(k for k, label in enumerate(labels) if groups.get(label) == group) for group in outer]
            yield cell, [lead + position for position in (*at, labels.index(own))]


def slot_sums(layout: Layout, slot: Slot, tensor: Tensor) -> Tensor:
    """Return the sum of the entries of a slot over each unit of its group.

    Args:
        layout: The groups and axes.
        slot: A slot of a tensor in the layout.
        tensor: The tensor, ``[*s]``, or other values of its entries, such as their squares.

    Returns:
        ``[*outer, n]`` in float64, or in complex128 for complex tensors.
    """
    total: Tensor | float = 0.0
    for cell, dims in slot_cells(layout, slot, tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)):
        front = cell.movedim(dims, [*range(len(dims))])
        total = total + front.reshape(*front.shape[: len(dims)], -1).sum(-1)  # ruff: ignore[non-augmented-assignment] - a float at first
    return torch.as_tensor(total)


def label_of(slot: Slot) -> str:
    """Return the name of an occurrence of a group on an axis of `labeled`.

    Args:
        slot: The slot.

    Returns:
        The name.
    """
    return f"{slot.dim}.{slot.number}"


def labeled(axis: Axis, dim: int, groups: dict[str, str]) -> Axis:
    """Return an axis with a name of its own for every atom with a group.

    The names survive the division into cells, where the position of an atom on its axis is lost.

    Args:
        axis: The axis.
        dim: Its dimension of the tensor.
        groups: The group by name; entries are added.

    Returns:
        An axis of the same structure.
    """
    names = iter([label_of(Slot("", dim, number)) for number, _ in enumerate(atoms_of(axis))])

    def relabel(part: Axis) -> Axis:
        match part:
            case Atom(size, group):
                name = next(names)
                if group is None:
                    return part
                groups[name] = group
                return Atom(size, name)
            case Product(factors):
                return Product(tuple(relabel(factor) for factor in factors))
            case Concat(parts):
                return Concat(tuple(relabel(each) for each in parts))

    return relabel(axis)
