"""Inner products of the units of two cells, in memory that is used again."""

from __future__ import annotations

import math
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.symmetry.action import gathered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.matchers.term import Term

# Products of so many entries are added up at once in their own precision, and their sums in float64.
_CHUNK = 2**14
# Entries from which memory is used again; what is smaller never goes back to the system.
_LARGE = 2**14


@final
class Workspace:
    """Memory for what is needed between two steps, the largest of each role being kept.

    The system hands out fresh memory page by page, so that a large tensor takes several times as long to fill as one
    that has been there before.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, role: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor to be written into; it is overwritten by the next one of its role.

        Args:
            role: What it is for.
            shape: Its shape.
            like: Sets dtype and device.

        Returns:
            A contiguous tensor of any content.
        """
        size, kept = math.prod(shape), self._kept.get(role)
        if kept is None or kept.numel() < size or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._kept[role] = like.new_empty(size)
        return kept[:size].view(*shape)


def add_inner_products(
    total: Tensor, term: Term, place: int, indices: Mapping[str, Tensor], workspace: Workspace, *, empty: bool
) -> None:
    """Add the inner products of all units of both networks, the other axes of the candidate being permuted.

    Args:
        total: ``[n, n]``, is added to: a row for each unit of the reference, a column for each of the candidate.
        term: No group of it is nested.
        place: Where among its atoms the units stand.
        indices: The permutation of every other group.
        workspace: Memory for the permuted candidate, and for both as matrices.
        empty: Whether nothing is in ``total`` yet, which then is only written to.
    """
    candidate = term.candidate
    for number, (other, group) in enumerate(term.grouped):
        if other != place:
            large = candidate.numel() >= _LARGE
            out = workspace.take(f"gathered {number % 2}", candidate.shape, candidate) if large else None
            candidate = gathered(candidate, 1 + other, indices[group], out=out)
    left = rows_of_units(term.reference, place, workspace, "reference")
    right = rows_of_units(candidate, place, workspace, "candidate")
    total.addmm_(left.to(total.dtype), right.to(total.dtype).T, beta=0 if empty else 1)


def rows_of_units(cell: Tensor, place: int, workspace: Workspace, role: str) -> Tensor:
    """Return a cell as a matrix with a row for each unit: a view where that is possible.

    Args:
        cell: ``[C, *atom sizes]``.
        place: Where among the atoms the units stand.
        workspace: Memory for a copy.
        role: The role of the copy.

    Returns:
        ``[n, rest]``.
    """
    units = cell.movedim(1 + place, 0)
    if cell.numel() < _LARGE:
        return units.reshape(len(units), -1)
    rest = [(size, stride) for size, stride in zip(units.shape[1:], units.stride()[1:], strict=True) if size != 1]
    if all(stride == size * inner for (_, stride), (size, inner) in pairwise(rest)):
        return units.flatten(1)
    target = workspace.take(role, units.shape, cell)
    return target.copy_(units).flatten(1)


def total_product(left: Tensor, right: Tensor) -> float:
    """Return the inner product of two tensors, short pieces in their own precision and their sum in float64.

    Args:
        left: Any shape.
        right: The same shape.

    Returns:
        A number.
    """
    sides = left.reshape(-1), right.reshape(-1)
    if left.numel() <= _CHUNK:
        return torch.dot(*sides).item()
    if left.is_cuda:  # a call a piece would take longer than the pieces
        whole = left.numel() // _CHUNK * _CHUNK
        rows = (side[:whole].view(-1, _CHUNK) for side in sides)
        rest = torch.dot(*(side[whole:] for side in sides))
        return (torch.einsum("pc,pc->p", *rows).double().sum() + rest).item()
    pieces = zip(*(side.split(_CHUNK) for side in sides), strict=True)
    return math.fsum(torch.stack(list(starmap(torch.dot, pieces))).tolist())
