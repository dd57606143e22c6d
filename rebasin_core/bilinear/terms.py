"""Terms of a sum of bilinear assignment problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.bilinear.stacked_cell import StackedCell, whole
from rebasin_core.symmetry.axis import Atom
from rebasin_core.symmetry.cell import cells
from rebasin_core.tensors.precision import working_dtype
from rebasin_core.tensors.widening import wide_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Axis


Channels: TypeAlias = "dict[str, Tensor]"
"""Channels by parameter name: for a parameter of shape ``s``, a tensor ``[C, *s]``."""


@final
@dataclass(frozen=True, eq=False)
class Term:
    r"""One summand $\langle \phi, g\,\psi \rangle$ of the objective of weight-space matchers.

    It compares one cell of one tensor in two networks. A *cell* is a view of a tensor whose dimensions are atoms, that
    is, no products or concatenations of axes (see `rebasin_core.symmetry.cells`). The tensors keep the dtype of the
    network; products are computed in at least single precision, large ones in pieces.

    Attributes:
        reference: Channels $\phi$ of the reference, ``[C, *atom sizes]``.
        candidate: Channels $\psi$ of the candidate, of the same shape.
        atoms: One atom for each dimension after the channels.
        device: Device of the products, to which slices of the tensors are copied; that of the tensors if None.
    """

    reference: Tensor | StackedCell
    candidate: Tensor | StackedCell
    atoms: tuple[Atom, ...]
    device: torch.device | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of products: float64 for float64, and float32 for all others."""
        return working_dtype(self.candidate.dtype)

    @cached_property
    def bound(self) -> float:
        """The product of both norms, an upper bound of the term (Cauchy-Schwarz)."""
        norms = [_norm(side, self.dtype) for side in (self.reference, self.candidate)]
        return norms[0] * norms[1]

    @cached_property
    def norm(self) -> float:
        """The same bound for centered vectors: how much the term can discriminate between assignments."""
        if len(self.atoms) != 1:
            return self.bound
        sides = (whole(side).to(self.dtype) for side in (self.reference, self.candidate))
        centered = [side - side.mean(-1, keepdim=True) for side in sides]
        return math.prod(float(torch.linalg.vector_norm(side)) for side in centered)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups that act on the term; twice if on two dimensions."""
        return tuple(group for _, group in self.grouped)

    @cached_property
    def grouped(self) -> tuple[tuple[int, str], ...]:
        """The positions among the atoms on which a group acts, with the group."""
        return tuple((position, atom.group) for position, atom in enumerate(self.atoms) if atom.group is not None)

    def positions(self, group: str) -> list[int]:
        """Return the positions among the atoms on which a group acts.

        Args:
            group: Name of the group.

        Returns:
            The positions, ascending.
        """
        return [position for position, name in self.grouped if name == group]


def _norm(side: Tensor | StackedCell, dtype: torch.dtype) -> float:
    """Return the norm, computed in a dtype; those of large parts are combined in double precision."""
    if isinstance(side, StackedCell):
        return math.hypot(*(_norm(member, dtype) for member in side.members))
    return math.hypot(*(float(torch.linalg.vector_norm(part)) for part in wide_parts(side, dtype)))


def terms_of(
    axes: Sequence[Axis],
    reference: Tensor | StackedCell,
    candidate: Tensor | StackedCell,
    *,
    device: torch.device | None = None,
) -> Iterator[Term]:
    """Yield the terms of one tensor.

    Args:
        axes: Its axes.
        reference: ``[C, *s]``. A stacked cell must have atoms only.
        candidate: ``[C, *s]``.
        device: Device of the products; that of the tensors if None.

    Yields:
        One term for each cell.
    """
    if isinstance(reference, StackedCell) or isinstance(candidate, StackedCell):
        yield Term(reference, candidate, tuple(axis for axis in axes if isinstance(axis, Atom)), device)
        return
    for (left, atoms), (right, _) in zip(cells(reference, axes), cells(candidate, axes), strict=True):
        yield Term(left, right, atoms, device)


def joined(terms: Sequence[Term]) -> list[Term]:
    """Return terms with all vectors of one group (biases, scales) concatenated along the channels into one term.

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
    for atoms, same in vectors.items():
        sides = [
            torch.cat([whole(side).to(device=t.device).to(t.dtype) for t, side in each])
            for each in ([(t, t.reference) for t in same], [(t, t.candidate) for t in same])
        ]
        rest.append(Term(sides[0], sides[1], atoms, same[0].device))
    return rest
