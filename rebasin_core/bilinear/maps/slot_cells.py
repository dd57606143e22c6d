"""The cells of tensors, with the slot of every dimension on which a group acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Product
from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.linear import Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class SlotCell:
    """A cell of one tensor in two networks.

    Attributes:
        reference: ``[C, *atom sizes]``.
        candidate: ``[C, *atom sizes]``.
        slots: The slot of each dimension after the channels; None where no group acts.
        groups: The group of each dimension after the channels; None where no group acts.
    """

    reference: Tensor
    candidate: Tensor
    slots: tuple[Slot | None, ...]
    groups: tuple[str | None, ...]

    def dims_of(self, group: str) -> list[int]:
        """Return the dimensions on which a group acts.

        Args:
            group: Name of the group.

        Returns:
            Indices, the channels being dimension 0.
        """
        return [position + 1 for position, name in enumerate(self.groups) if name == group]


def slot_cells(layout: Layout, name: str, reference: Tensor, candidate: Tensor) -> Iterator[SlotCell]:
    """Yield the cells of a tensor in two networks.

    Args:
        layout: The groups.
        name: Name of the tensor.
        reference: ``[C, *s]``.
        candidate: ``[C, *s]``.

    Yields:
        The cells; their tensors are views if possible.
    """
    known: dict[str, tuple[Slot, str]] = {}
    axes = [_labeled(axis, name, dim, [0], known) for dim, axis in enumerate(layout.axes[name])]
    for (left, atoms), (right, _) in zip(cells(reference, axes), cells(candidate, axes), strict=True):
        found = [known.get(atom.group or "") for atom in atoms]
        slots = tuple(None if one is None else one[0] for one in found)
        yield SlotCell(left, right, slots, tuple(None if one is None else one[1] for one in found))


def _labeled(axis: Axis, name: str, dim: int, counter: list[int], known: dict[str, tuple[Slot, str]]) -> Axis:
    """Return an axis in which every atom with a group has a name of its own, that of its slot."""
    match axis:
        case Atom(size, group):
            slot = Slot(name, dim, counter[0])
            counter[0] += 1
            if group is None:
                return axis
            label = f"{dim}.{slot.number}"
            known[label] = (slot, group)
            return Atom(size, label)
        case Product(factors):
            return Product(tuple(_labeled(factor, name, dim, counter, known) for factor in factors))
        case Concat(parts):
            return Concat(tuple(_labeled(part, name, dim, counter, known) for part in parts))
