"""The cells of tensors, with the slot of every dimension on which a group acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.kind import Slot
from rebasin_core.symmetry.slots import labeled

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


def cell_pairs(layout: Layout, name: str, reference: Tensor, candidate: Tensor) -> Iterator[SlotCell]:
    """Yield the cells of a tensor in two networks.

    Args:
        layout: The groups.
        name: Name of the tensor.
        reference: ``[C, *s]``.
        candidate: ``[C, *s]``.

    Yields:
        The cells; their tensors are views if possible.
    """
    group_of: dict[str, str] = {}
    axes = [labeled(axis, dim, group_of) for dim, axis in enumerate(layout.axes[name])]
    for (left, atoms), (right, _) in zip(cells(reference, axes), cells(candidate, axes), strict=True):
        labels = [atom.group if atom.group in group_of else None for atom in atoms]
        slots = tuple(None if label is None else Slot(name, *map(int, label.split("."))) for label in labels)
        yield SlotCell(left, right, slots, tuple(None if label is None else group_of[label] for label in labels))
