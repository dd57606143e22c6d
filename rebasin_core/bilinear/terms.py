"""Terms of a sum of bilinear assignment problems, and inner products of the units in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.symmetry.action import gathered
from rebasin_core.symmetry.cells import cells
from rebasin_core.tensors.precision import working_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Atom, Axis


Channels: TypeAlias = "dict[str, Tensor]"
"""For every parameter of shape ``s`` a tensor ``[C, *s]``: what two networks are compared by."""

# Products of so many entries are added up at once in their own precision, and their sums in float64.
_CHUNK = 2**14
# Entries from which memory is used again; what is smaller never goes back to the system.
_LARGE = 2**14


@final
@dataclass(frozen=True, eq=False)
class Term:
    """One cell of one tensor: its channels in both networks, and the atoms of its dimensions.

    Attributes:
        reference: ``[C, *atom sizes]``.
        candidate: The same for the network that is moved.
        atoms: One a dimension after the channel.
    """

    reference: Tensor
    candidate: Tensor
    atoms: tuple[Atom, ...]

    @cached_property
    def bound(self) -> float:
        """The product of both norms: the most that the term can give."""
        return float(torch.linalg.vector_norm(self.reference)) * float(torch.linalg.vector_norm(self.candidate))

    @cached_property
    def norm(self) -> float:
        """The same, of vectors about their means: the most that the term can tell of the units."""
        if len(self.atoms) != 1:
            return self.bound
        left, right = (side - side.mean(-1, keepdim=True) for side in (self.reference, self.candidate))
        return float(torch.linalg.vector_norm(left)) * float(torch.linalg.vector_norm(right))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups that act here, as often as they stand here."""
        return tuple(group for _, group in self.grouped)

    @cached_property
    def grouped(self) -> tuple[tuple[int, str], ...]:
        """Where among the atoms groups act, and which."""
        return tuple((place, atom.group) for place, atom in enumerate(self.atoms) if atom.group is not None)

    def places(self, group: str) -> list[int]:
        """Return where a group stands among the atoms.

        Args:
            group: A group.

        Returns:
            Places, in order.
        """
        return [place for place, name in self.grouped if name == group]


def terms_of(axes: Sequence[Axis], reference: Tensor, candidate: Tensor) -> Iterator[Term]:
    """Yield the terms of one tensor.

    Args:
        axes: Its axes.
        reference: ``[C, *s]``.
        candidate: ``[C, *s]``.

    Yields:
        One term a cell.
    """
    sides = (cells(tensor.to(working_dtype(tensor.dtype)), axes) for tensor in (reference, candidate))
    pairs = zip(*sides, strict=True)
    for (left, atoms), (right, _) in pairs:
        yield Term(left, right, atoms)


def joined(terms: Sequence[Term]) -> list[Term]:
    """Return terms with the vectors of each group (biases, scales) made one term, their channels side by side.

    Args:
        terms: Any terms.

    Returns:
        Terms with the same sum.
    """
    vectors: dict[tuple[Atom, ...], list[Term]] = {}
    rest = []
    for term in terms:
        if len(term.atoms) == 1:
            vectors.setdefault(term.atoms, []).append(term)
        else:
            rest.append(term)
    for atoms, alike in vectors.items():
        rest.append(Term(torch.cat([t.reference for t in alike]), torch.cat([t.candidate for t in alike]), atoms))
    return rest


def inner_products(left: Tensor, right: Tensor, *, batch: list[int], compared: list[int]) -> Tensor:
    """Return the inner products of all pairs of slices of two cells.

    Args:
        left: ``[C, *atom sizes]``.
        right: The same shape.
        batch: Places among the atoms that both share.
        compared: Places whose units are compared, all with all; everything else is summed over.

    Returns:
        ``[*batch, n, n]`` in the precision of the cells, n being the number of compared units.
    """
    front = [1 + place for place in batch]
    rows = [1 + place for place in compared]
    order = [*front, *rows, *(dim for dim in range(left.dim()) if dim not in {*front, *rows})]
    sides = []
    for tensor in (left, right):
        moved = tensor.permute(order)
        sizes = moved.shape[: len(front)]
        units = moved.shape[len(front) : len(front) + len(rows)].numel()
        sides.append(moved.reshape(*sizes, units, -1))
    return sides[0] @ sides[1].transpose(-1, -2)


def sorted_product(left: Tensor, right: Tensor) -> float:
    """Return the largest inner product of two vectors over all orders of the second, a sum over channels.

    Args:
        left: ``[C, n]``.
        right: ``[C, n]``.

    Returns:
        A number.
    """
    return total_product(left.sort(-1).values, right.sort(-1).values)


def picked(similarity: Tensor, index: Tensor) -> Tensor:
    """Return the entries that an assignment picks.

    Args:
        similarity: ``[*batch, n, n]``.
        index: ``[*batch, n]``.

    Returns:
        ``[*batch, n]``.
    """
    return similarity.gather(-1, index.unsqueeze(-1)).squeeze(-1)


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
