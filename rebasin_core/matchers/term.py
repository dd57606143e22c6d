"""Terms of a sum of bilinear assignments: one cell of one tensor, in both networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.matchers.products import total_product
from rebasin_core.symmetry.cells import cells
from rebasin_core.tensors.precision import working_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Atom, Axis


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
