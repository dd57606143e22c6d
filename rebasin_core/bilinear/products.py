"""Inner products of the units of two networks, and of whole tensors."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.pieces import pieces
from rebasin_core.symmetry.action import gathered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term

# Number of entries that are summed in their own precision; sums of such pieces are added in float64.
_CHUNK = 2**14
# Number of entries from which memory is reused; the allocator keeps smaller blocks anyway.
_LARGE = 2**14


def inner_products(left: Tensor, right: Tensor, *, batch: list[int], compared: list[int]) -> Tensor:
    """Return the inner products of all pairs of slices of two cells.

    Args:
        left: ``[C, *atom sizes]``.
        right: The same shape.
        batch: Positions among the atoms that are batch dimensions.
        compared: Positions whose units are compared, all pairs; all other dimensions are summed over.

    Returns:
        ``[*batch, n, n]`` in the precision of the cells, for n compared units.
    """
    front = [1 + position for position in batch]
    rows = [1 + position for position in compared]
    order = [*front, *rows, *(dim for dim in range(left.dim()) if dim not in {*front, *rows})]
    sides = []
    for tensor in (left, right):
        ordered = tensor.permute(order)
        sizes = ordered.shape[: len(front)]
        units = ordered.shape[len(front) : len(front) + len(rows)].numel()
        sides.append(ordered.reshape(*sizes, units, -1))
    return sides[0] @ sides[1].transpose(-1, -2)


def sorted_product(left: Tensor, right: Tensor) -> float:
    """Return the largest inner product over all permutations of the second vector, summed over channels.

    Args:
        left: ``[C, n]``.
        right: ``[C, n]``.

    Returns:
        The sum over channels of the inner products of the sorted vectors.
    """
    return total_product(left.sort(-1).values, right.sort(-1).values)


def picked(similarity: Tensor, index: Tensor) -> Tensor:
    """Return the entries of a similarity matrix that an assignment selects.

    Args:
        similarity: ``[*batch, n, n]``.
        index: ``[*batch, n]``.

    Returns:
        ``[*batch, n]``.
    """
    return similarity.gather(-1, index.unsqueeze(-1)).squeeze(-1)


@final
class Workspace:
    """Reusable memory for intermediate results: for each role, the largest tensor that was needed so far.

    The operating system provides new memory page by page, so filling a new large tensor takes several times as long as
    overwriting an existing one.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def buffer(self, role: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialized tensor; the next call with the same role overwrites it.

        Args:
            role: Name of the purpose.
            shape: Shape of the tensor.
            like: Tensor with the dtype and device.

        Returns:
            A contiguous tensor.
        """
        size = math.prod(shape)
        kept = self._kept.get(role)
        if kept is None or kept.numel() < size or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._kept[role] = like.new_empty(size)
        return kept[:size].view(*shape)


def add_inner_products(
    total: Tensor, term: Term, position: int, indices: Mapping[str, Tensor], workspace: Workspace, *, empty: bool
) -> None:
    """Add the inner products of all pairs of units, after permuting the candidate's other dimensions.

    Args:
        total: Matrix ``[n, n]`` that is added to in place; rows are reference units, columns candidate units.
        term: A term without nested groups.
        position: Position of the units among the term's atoms.
        indices: Permutations of the other groups.
        workspace: Memory for the permuted candidate and for both cells as matrices.
        empty: Whether ``total`` is uninitialized; it is then overwritten.
    """
    for reference, candidate, done in pieces(term, indices, whole=(position,)):
        permuted = candidate
        for step, (other, group) in enumerate(term.grouped):
            if other != position and other not in done:
                large = permuted.numel() >= _LARGE
                out = workspace.buffer(f"gathered {step % 2}", permuted.shape, permuted) if large else None
                permuted = gathered(permuted, 1 + other, indices[group], out=out)
        left = rows_of_units(reference, position, workspace, "reference")
        right = rows_of_units(permuted, position, workspace, "candidate")
        total.addmm_(left.to(total.dtype), right.to(total.dtype).T, beta=0 if empty else 1)
        empty = False


def rows_of_units(cell: Tensor, position: int, workspace: Workspace, role: str) -> Tensor:
    """Return a cell as a matrix with one row for each unit, a view if possible.

    Args:
        cell: ``[C, *atom sizes]``.
        position: Position of the units among the atoms.
        workspace: Memory for a copy.
        role: The role of the copy.

    Returns:
        ``[n, rest]``.
    """
    units = cell.movedim(1 + position, 0)
    if cell.numel() < _LARGE:
        return units.reshape(len(units), -1)
    rest = [(size, stride) for size, stride in zip(units.shape[1:], units.stride()[1:], strict=True) if size != 1]
    if all(stride == size * inner for (_, stride), (size, inner) in pairwise(rest)):
        return units.flatten(1)
    target = workspace.buffer(role, units.shape, cell)
    return target.copy_(units).flatten(1)


def total_product(left: Tensor, right: Tensor) -> float:
    """Return the inner product of two tensors: pieces in the tensors' precision, their sum in float64.

    Args:
        left: Any shape.
        right: The same shape.

    Returns:
        The inner product.
    """
    first = left.reshape(-1)
    second = right.reshape(-1)
    if left.numel() <= _CHUNK:
        return torch.dot(first, second).item()
    if left.device.type != "cpu":  # one launch for each piece would take longer than the pieces
        whole = left.numel() // _CHUNK * _CHUNK
        rest = torch.dot(first[whole:], second[whole:])
        pieces = torch.einsum("pc,pc->p", first[:whole].view(-1, _CHUNK), second[:whole].view(-1, _CHUNK))
        return (pieces.double().sum() + rest).item()
    products = map(torch.dot, first.split(_CHUNK), second.split(_CHUNK))
    return math.fsum(torch.stack(list(products)).tolist())
