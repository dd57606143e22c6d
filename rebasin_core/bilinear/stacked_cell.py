"""Cells of large stacks, whose tensors are stacked when they are used, one slice at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.symmetry.axis import Atom
from rebasin_core.tensors.device import select

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.stack import Stack

# Number of entries from which a stack is not copied to memory as a whole: that of a slice.
LARGE = 2**24


@final
@dataclass(frozen=True, eq=False)
class StackedCell:
    """The tensors of a stack, as a tensor ``[C, *sizes, *rest]`` that is not in memory as a whole.

    Attributes:
        members: ``[C, *rest]`` for every tensor of the stack.
        sizes: Lengths of the dimensions after the channels.
    """

    members: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of the stacked tensor."""
        first = self.members[0].shape
        return torch.Size((*first[:1], *self.sizes, *first[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all tensors."""
        return self.members[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.members[0].device

    def numel(self) -> int:
        """Return the number of entries."""
        return self.shape.numel()

    def whole(self) -> Tensor:
        """Return the stacked tensor, a copy."""
        return torch.stack(self.members, 1).reshape(self.shape)

    def narrow(self, dim: int, start: int, length: int) -> Tensor:
        """Return a slice of the stacked tensor.

        Args:
            dim: The dimension.
            start: The first position.
            length: Number of positions.

        Returns:
            The slice; only its entries are copied.
        """
        if dim <= len(self.sizes):
            return self.whole().narrow(dim, start, length)
        parts = [member.narrow(dim - len(self.sizes), start, length) for member in self.members]
        return StackedCell(tuple(parts), self.sizes).whole()

    def select(self, dim: int, index: Tensor) -> Tensor:
        """Return positions of the stacked tensor.

        Args:
            dim: The dimension.
            index: The positions.

        Returns:
            The positions; only their entries are copied.
        """
        if dim <= len(self.sizes):
            return select(self.whole(), dim, index)
        parts = [select(member, dim - len(self.sizes), index) for member in self.members]
        return StackedCell(tuple(parts), self.sizes).whole()


def whole(side: Tensor | StackedCell) -> Tensor:
    """Return a cell as a tensor.

    Args:
        side: The cell.

    Returns:
        The tensor; a copy if it was not stacked.
    """
    return side.whole() if isinstance(side, StackedCell) else side


def positions_of(side: Tensor | StackedCell, dim: int, index: Tensor) -> Tensor:
    """Return positions of a cell along one dimension.

    Args:
        side: The cell.
        dim: The dimension.
        index: The positions.

    Returns:
        A copy.
    """
    return side.select(dim, index) if isinstance(side, StackedCell) else select(side, dim, index)


def stacked_cells(
    layout: Layout, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor | StackedCell, Tensor | StackedCell]]:
    """Yield the channels of two networks by the names in the axes of a layout.

    Args:
        layout: The groups.
        reference: ``[C, *s]`` by name.
        candidate: ``[C, *s]`` by name.

    Yields:
        The name, and the channels of both. Large stacks are not copied.

    Raises:
        InvalidInputError: If only some tensors of a stack are given, or they have different shapes.
    """
    for name in reference:
        key = layout.key(name)
        stack = layout.stacks.get(key)
        if stack is None or name not in stack.members:
            yield key, reference[name], candidate[name]
        elif name == next(member for member in stack.members if member in reference):
            yield key, _of_stack(layout, key, stack, reference), _of_stack(layout, key, stack, candidate)


def _of_stack(layout: Layout, key: str, stack: Stack, tensors: Mapping[str, Tensor]) -> Tensor | StackedCell:
    own = {member: tensors[member] for member in stack.members if member in tensors}
    forms = {(tensor.shape, tensor.dtype, tensor.device) for tensor in own.values()}
    is_complete = len(own) == len(stack.members) and len(forms) == 1
    if is_complete and is_sliced(layout, key, tuple(own.values())):
        return StackedCell(tuple(own.values()), stack.sizes)
    return layout.stacked(own)[key]


def is_sliced(layout: Layout, key: str, members: Collection[Tensor]) -> bool:
    """Return whether a stack is compared in slices, and not copied as a whole.

    Args:
        layout: The groups.
        key: Name of the stack.
        members: Its tensors.

    Returns:
        True for large stacks whose axes are atoms.
    """
    has_one_cell = all(isinstance(axis, Atom) for axis in layout.axes[key])
    return has_one_cell and sum(tensor.numel() for tensor in members) > LARGE
