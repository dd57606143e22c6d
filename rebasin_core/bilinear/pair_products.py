"""Inner products of all pairs of units of nested groups, in all pairs of units of the groups around them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.changes import MAX_UPDATES, changes_of
from rebasin_core.bilinear.levels import Level, nested_in
from rebasin_core.bilinear.pieces import pieces
from rebasin_core.bilinear.products import inner_products
from rebasin_core.symmetry.action import act_on_cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout


def entries_of_pairs(layout: Layout, name: str) -> int:
    """Return the number of entries of the matrices of all groups nested in a group.

    Args:
        layout: The groups.
        name: Name of the outer group.

    Returns:
        The number; 0 for groups without nested groups.
    """
    outer = prod(layout.index_shape(name)[:-1])
    # All units within one unit of the outer groups are compared with each other.
    return sum(prod(layout.index_shape(child)) ** 2 // outer for child in nested_in(layout, name))


@final
@dataclass(slots=True)
class _Kept:
    """The last matrix of a group, its terms, and the permutations of the other groups it is valid for."""

    total: Tensor
    terms: list[Term]
    indices: dict[str, Tensor]
    updates: int = 0


@final
class PairProducts:
    r"""Matrices of inner products $\langle \phi_{(i, a)}, \psi_{(j, b)} \rangle$ of units $a$ in $i$ and $b$ in $j$.

    Here $a$ and $b$ are units of a nested group, and $i$ and $j$ those of the groups around it: of the one directly
    around it, or of all up to a group ``top``. The candidate is permuted by all other groups. Matrices of some groups
    are kept, and updated when other groups change: by products over the permuted units only, if that is less work.

    Args:
        layout: The groups.
        dtype: Dtype of the matrices.
        remembered: Groups of whose nested groups the matrices are kept.

    Complexity:
        Memory for $(n m)^2$ entries for n units with m nested units each, for every nested group that is kept.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype, remembered: Collection[str] = ()) -> None:
        self._layout = layout
        self._dtype = dtype
        self._remembered = remembered
        self._kept: dict[tuple[str, str], _Kept] = {}

    def forget(self) -> None:
        """Discard all matrices."""
        self._kept.clear()

    def of(self, child: str, terms: Sequence[Term], indices: Mapping[str, Tensor], *, top: str | None = None) -> Tensor:
        """Return the inner products of all pairs of units; do not change the tensor.

        Args:
            child: Name of the nested group.
            terms: Terms on which it acts once, and no other group nested in the same group.
            indices: Current permutations of all groups. The result does not depend on those of the group and of the
                groups around it up to ``top``.
            top: The outermost group whose units are compared; the group directly around the nested group if None.

        Returns:
            ``[*outer, n, n, m, m]`` for n units of the groups around it, and m units in each of them. The groups around
            ``top`` are the outer ones.
        """
        around = str(self._layout.groups[child].within)
        level = Level(self._layout, top or around, child)
        compared = [(term, level.positions(term)) for term in terms]
        others = [(group, p, fixed) for term, fixed in compared for p, group in term.grouped]
        now = {group: indices[group] for group, position, fixed in others if position not in fixed}
        kept = self._kept.get((level.top, child))
        if kept is None or kept.terms != [*terms] or not self._is_updated(level, kept, compared, now):
            kept = _Kept(self._recomputed(level, compared, indices), [*terms], now)
            if level.top in self._remembered:
                self._kept[level.top, child] = kept
        width = self._layout.groups[child].size
        size = level.size // width
        return kept.total.view(*level.outer, size, width, size, width).transpose(-3, -2)

    def _recomputed(
        self, level: Level, compared: Sequence[tuple[Term, tuple[int, ...]]], indices: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the sum over the terms, ``[*outer, n m, n m]``."""
        shape = (*level.outer, level.size, level.size)
        total = torch.zeros(shape, dtype=self._dtype, device=indices[level.name].device)
        for term, fixed in compared:
            for reference, candidate, done in pieces(term, indices, whole=fixed, nested=self._layout.nesting):
                permuted = act_on_cell(self._layout, indices, candidate, term.atoms, skip=(*fixed, *done))
                total += inner_products(reference, permuted, batch=level.batch(term), compared=[*fixed])
        return total

    def _is_updated(
        self, level: Level, kept: _Kept, compared: Sequence[tuple[Term, tuple[int, ...]]], now: dict[str, Tensor]
    ) -> bool:
        """Update a matrix if that is less work than recomputing it; return whether it is valid now."""
        if all(index is kept.indices[group] for group, index in now.items()):
            return True
        changes = changes_of(self._layout, compared, now, kept.indices) if kept.updates < MAX_UPDATES else None
        if changes is None:
            return False
        for change in changes:
            batch = level.batch(change.term)
            for reference, difference, position_of in change.pieces():
                kept.total += inner_products(
                    reference,
                    difference,
                    batch=[position_of[position] for position in batch],
                    compared=[position_of[position] for position in change.fixed],
                )
        kept.indices = now
        kept.updates += bool(changes)
        return True


def at_assignment(products: Tensor, index: Tensor) -> Tensor:
    """Return the parts of inner products that belong to an assignment of the outer units.

    Args:
        products: ``[*outer, n, n, m, m]``.
        index: ``[*outer, n]``.

    Returns:
        ``[*outer, n, m, m]``.
    """
    chosen = index[..., None, None, None].expand(*index.shape, 1, *products.shape[-2:])
    return products.gather(-3, chosen).squeeze(-3)
