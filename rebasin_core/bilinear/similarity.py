"""Similarity matrices between the units of two networks, updated incrementally during a descent."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.changes import MAX_UPDATES, changes_of
from rebasin_core.bilinear.pair_products import entries_of_pairs
from rebasin_core.bilinear.pieces import pieces
from rebasin_core.bilinear.products import Workspace, add_inner_products, inner_products, rows_of_units
from rebasin_core.symmetry.action import act_on_cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(slots=True)
class _Kept:
    """The last matrix of a group: the sum over some terms, and the permutations of the other groups it is valid for."""

    total: Tensor
    indices: dict[str, Tensor]
    terms: list[Term]
    updates: int = 0


@final
class SimilarityMatrices:
    r"""The similarity matrix of every group, ``[*outer, n, n]``.

    Entry $S_{ij}$ is the contribution to the objective of assigning candidate unit $j$ to reference unit $i$, given the
    permutations of all other groups. $S$ is a sum of one matrix product for each term. The part that depends on no
    other group is computed once. The rest is updated when another group has changed: for large tensors, by a product
    over the permuted units only, with the difference between their new and old weights.

    Args:
        layout: The groups.
        terms_of_group: The terms on which each group acts.
        memory: Maximum number of bytes of all matrices that are kept; unlimited if None.

    Complexity:
        Memory for two matrices for each group, or as limited, in addition to the two networks.
    """

    def __init__(
        self, layout: Layout, terms_of_group: Mapping[str, Sequence[Term]], *, memory: int | None = None
    ) -> None:
        self._layout = layout
        self._constant: dict[str, Tensor] = {}
        self._kept: dict[str, _Kept] = {}
        single = {name: [t for t in terms if t.groups == (name,)] for name, terms in terms_of_group.items()}
        # Recomputing products of vectors takes less time than storing them.
        self._fixed = {name: terms if any(len(t.atoms) > 1 for t in terms) else [] for name, terms in single.items()}
        self._varying = {
            name: [t for t in terms if t not in self._fixed[name]] for name, terms in terms_of_group.items()
        }
        self._size = {name: sum(t.candidate.numel() for t in terms) for name, terms in self._varying.items()}
        every = {term.dtype for terms in terms_of_group.values() for term in terms}
        self._dtype = functools.reduce(torch.promote_types, every, torch.float32)
        self._workspace = Workspace()
        self._remembered = self._within(memory)

    def _within(self, memory: int | None) -> frozenset[str]:
        """Return the groups whose matrices are kept: those with the largest saving per byte that fit into memory."""
        if memory is None:
            return frozenset(self._layout.groups)
        found = []
        width = self._dtype.itemsize
        size = {name: math.prod(self._layout.index_shape(name)) for name in self._layout.groups}
        for name in sorted(size, key=lambda name: self._size[name] / size[name], reverse=True):
            # Of nested groups, only the constant part is kept.
            matrices = bool(self._fixed[name]) + (bool(self._varying[name]) and name not in self._layout.nesting)
            entries = matrices * size[name] * self._layout.index_shape(name)[-1]
            needed = width * (entries + entries_of_pairs(self._layout, name))
            if needed <= memory:
                memory -= needed
                found.append(name)
        return frozenset(found)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the matrices."""
        return self._dtype

    @property
    def remembered(self) -> frozenset[str]:
        """The groups whose matrices are kept."""
        return self._remembered

    def of(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return the similarity matrix of a group; do not modify it in place.

        Args:
            name: Name of the group.
            indices: Current permutations of all groups.

        Returns:
            ``[*outer, n, n]``, in the precision of the terms.
        """
        if name not in self._remembered:
            return self.recomputed(name, indices, self._every(name))
        if not self._varying[name]:
            return self.constant_part(name, indices)
        if name in self._layout.nesting:
            return self.constant_part(name, indices) + self.recomputed(name, indices, self._varying[name])
        kept = self._kept.get(name)
        if kept is None or not self._is_updated(name, kept, indices):
            kept = self._keep(name, indices, self._varying[name])
        missing = [term for term in self._varying[name] if term not in kept.terms]
        if missing:
            self._add(kept.total, name, indices, missing)
            kept.indices = _others_of(name, indices, self._varying[name])
            kept.terms = self._varying[name]
        return kept.total

    def forget(self) -> None:
        """Discard all matrices except the parts that depend on no other group."""
        self._kept.clear()

    def share_known(self, name: str, matched: Collection[str]) -> float:
        """Return the share of a group's similarity, by the norms of terms, that depends only on matched groups.

        Args:
            name: Name of the group.
            matched: Groups that are already matched.

        Returns:
            The share, in [0, 1].
        """
        known = sum(term.norm for term in self.known_terms(name, matched))
        total = sum(term.norm for term in self._every(name))
        return known / total if total > 0 else 0.0

    def known_terms(self, name: str, matched: Collection[str]) -> list[Term]:
        """Return the terms of a group whose other groups are all matched.

        Args:
            name: Name of the group.
            matched: Groups that are already matched.

        Returns:
            Terms on which the group acts once.
        """
        return [term for term in self._every(name) if all(group in matched for group in _others(name, term))]

    def known(self, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> Tensor:
        """Return the sum over the terms of a group that depend only on matched groups.

        Args:
            name: Name of the group.
            indices: Current permutations of all groups.
            terms: The terms, from `known_terms`.

        Returns:
            ``[*outer, n, n]``.
        """
        if name not in self._remembered:
            return self.recomputed(name, indices, terms)
        return self._keep(name, indices, [term for term in terms if term not in self._fixed[name]]).total

    def _every(self, name: str) -> Sequence[Term]:
        return (*self._fixed[name], *self._varying[name])

    def recomputed(self, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> Tensor:
        """Return the sum over some terms of a group, without using earlier results.

        Args:
            name: Name of the group.
            indices: Current permutations of all groups.
            terms: Terms on which the group acts.

        Returns:
            ``[*outer, n, n]``.
        """
        return self._add(self._matrix(name, indices), name, indices, terms, empty=True)

    def _matrix(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return memory for a group's similarity matrix."""
        shape = self._layout.index_shape(name)
        return torch.empty((*shape, shape[-1]), dtype=self._dtype, device=indices[name].device)

    def _add(
        self, total: Tensor, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term], *, empty: bool = False
    ) -> Tensor:
        """Add the sum over some terms to a matrix, or write it if the matrix is empty."""
        if empty and not (terms and self._layout.nesting.isdisjoint(terms[0].groups)):
            total.zero_()
        inside = indices
        if name in self._layout.nesting:  # inner groups are permuted together with the candidate's units
            inside = reordered_within(self._layout, indices, name, indices[name].argsort(-1))
        occurrences = [(term, position) for term in terms for position in term.positions(name)]
        for number, (term, position) in enumerate(occurrences):
            if self._layout.nesting.isdisjoint(term.groups):
                new = empty and number == 0
                add_inner_products(total, term, position, indices, self._workspace, empty=new)
                continue
            outer = [term.positions(group)[0] for group in self._layout.ancestors(name)]
            for reference, candidate, done in pieces(term, inside, whole=(position,), nested=self._layout.nesting):
                permuted = act_on_cell(self._layout, inside, candidate, term.atoms, skip=(position, *done))
                total += inner_products(reference, permuted, batch=outer, compared=[position])
        return total

    def constant_part(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return the part of a matrix that depends on no other group; do not modify it in place.

        Args:
            name: Name of the group.
            indices: Current permutations of all groups; the result does not depend on them.

        Returns:
            ``[*outer, n, n]``.
        """
        known = self._constant.get(name)
        if known is None:
            known = self.recomputed(name, indices, self._fixed[name])
            if name in self._remembered:
                self._constant[name] = known
        return known

    def _keep(self, name: str, indices: Mapping[str, Tensor], terms: list[Term]) -> _Kept:
        """Compute the sum over the constant and some other terms, and store it in the memory of the last matrix."""
        kept = self._kept.get(name)
        fixed = self._fixed[name]
        total = self._matrix(name, indices) if kept is None else kept.total
        if fixed:
            total.copy_(self.constant_part(name, indices))
        self._add(total, name, indices, terms, empty=not fixed)
        self._kept[name] = _Kept(total, _others_of(name, indices, terms), terms)
        return self._kept[name]

    def _is_updated(self, name: str, kept: _Kept, indices: Mapping[str, Tensor]) -> bool:
        """Update a matrix if that is less work than recomputing it; return whether it is valid now."""
        if all(index is kept.indices[group] for group, index in _others_of(name, indices, kept.terms).items()):
            return True
        return kept.updates < MAX_UPDATES and self._update(name, kept, indices)

    def _update(self, name: str, kept: _Kept, indices: Mapping[str, Tensor]) -> bool:
        """Update a matrix if that is less work than recomputing it; return whether it was updated."""
        now = _others_of(name, indices, kept.terms)
        terms = [(term, (position,)) for term in kept.terms for position in term.positions(name)]
        changes = changes_of(self._layout, terms, now, kept.indices)
        if changes is None:
            return False
        total, work = kept.total, self._workspace
        for change in changes:
            for reference, difference, position_of in change.pieces():
                position = position_of[change.fixed[0]]
                left = rows_of_units(reference, position, work, "reference")
                right = rows_of_units(difference, position, work, "candidate")
                total.addmm_(left.to(total.dtype), right.to(total.dtype).T)
        kept.indices = now
        kept.updates += bool(changes)
        return True


def _others(name: str, term: Term) -> list[str]:
    """Return the groups, with multiplicity, on whose permutations the similarity of a group in a term depends."""
    others = list(term.groups)
    others.remove(name)
    return others


def _others_of(name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> dict[str, Tensor]:
    """Return the permutations on which the similarity of a group in some terms depends."""
    return {group: indices[group] for term in terms for group in _others(name, term)}


def reordered_within(layout: Layout, indices: Mapping[str, Tensor], name: str, order: Tensor) -> dict[str, Tensor]:
    """Return indices with the groups nested in a group reordered like its units.

    Args:
        layout: The groups.
        indices: The index of every group.
        name: The group whose units are reordered.
        order: The order, ``[*outer, n]``.

    Returns:
        The indices; that of the group itself is unchanged.
    """
    reordered = dict(indices)
    for other in layout.groups:
        ancestors = layout.ancestors(other)
        if name in ancestors:
            depth = ancestors.index(name)
            shape = [*order.shape, *[1] * (reordered[other].dim() - depth - 1)]
            reordered[other] = torch.take_along_dim(reordered[other], order.reshape(shape), dim=depth)
    return reordered
