"""What units gain from each other at the present permutation, kept up to date with what changes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.terms import Term, Workspace, add_inner_products, inner_products
from rebasin_core.symmetry.action import act_on_cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

# Entries of all terms below which the products are computed anew: keeping books would take longer.
_SMALL = 100_000
# The part of the products above which they are computed anew.
_MOST_CHANGED = 0.85
# Rounding adds up over updates; after so many, the products are computed anew.
_MOST_UPDATES = 12


@final
@dataclass(slots=True)
class _Kept:
    """What was last computed for a group: the sum over some terms, and at which permutation of the others."""

    total: Tensor
    indices: dict[str, Tensor]
    terms: list[Term]
    updates: int = 0


@final
class SimilarityMatrices:
    """Matrices ``[*outer, n, n]``: what each unit of the reference gains from each unit of the candidate.

    A matrix is a sum of one product a term. What depends on no other group is computed once, the rest again only where
    another group moved since then: of large tensors the columns of the units that moved, as a product with the
    difference that they make.

    Args:
        layout: The groups.
        touching: For every group, the terms it stands in.

    Complexity:
        Beside the two networks, two matrices for every group are kept.
    """

    def __init__(self, layout: Layout, touching: Mapping[str, Sequence[Term]]) -> None:
        self._layout = layout
        self._constant: dict[str, Tensor] = {}
        self._kept: dict[str, _Kept] = {}
        alone = {name: [t for t in terms if t.groups == (name,)] for name, terms in touching.items()}
        # Products of vectors are sooner computed again than kept.
        self._fixed = {name: terms if any(len(t.atoms) > 1 for t in terms) else [] for name, terms in alone.items()}
        self._varying = {name: [t for t in terms if t not in self._fixed[name]] for name, terms in touching.items()}
        self._size = {name: sum(t.candidate.numel() for t in terms) for name, terms in self._varying.items()}
        within = {name for name in layout.groups if layout.ancestors(name)}
        self._nested = within | {outer for name in within for outer in layout.ancestors(name)}
        every = [term.candidate for terms in touching.values() for term in terms]
        self._dtype = functools.reduce(torch.promote_types, {t.dtype for t in every}, torch.float32)
        self._workspace = Workspace()

    def of(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return the matrix of a group; not to be written into.

        Args:
            name: The group.
            indices: The present permutation.

        Returns:
            ``[*outer, n, n]``, in the precision of the terms.
        """
        if not self._varying[name]:
            return self.constant_part(name, indices)
        if name in self._nested:
            return self.constant_part(name, indices) + self.recomputed(name, indices, self._varying[name])
        kept = self._kept.get(name)
        if kept is None or not self._brought_up_to_date(name, kept, indices):
            kept = self._keep(name, indices, self._varying[name])
        missing = [term for term in self._varying[name] if term not in kept.terms]
        if missing:
            self._add(kept.total, name, indices, missing)
            kept.indices = _others_of(name, indices, self._varying[name])
            kept.terms = self._varying[name]
        return kept.total

    def forget(self) -> None:
        """Keep nothing but what depends on no other group."""
        self._kept.clear()

    def share_known(self, name: str, settled: Collection[str]) -> float:
        """Return how much of what a group gains depends on settled groups alone, by the norms of the terms.

        Args:
            name: The group.
            settled: Groups whose place is known.

        Returns:
            Between 0 and 1.
        """
        known, everything = (
            sum(term.norm for term in terms) for terms in (self.known_terms(name, settled), self._every(name))
        )
        return known / everything if everything > 0 else 0.0

    def known_terms(self, name: str, settled: Collection[str]) -> list[Term]:
        """Return the terms of a group whose other groups are all settled.

        Args:
            name: The group.
            settled: Groups whose place is known.

        Returns:
            Terms that the group stands in once.
        """
        return [term for term in self._every(name) if all(group in settled for group in _others(name, term))]

    def known(self, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> Tensor:
        """Return the part of a matrix that depends on settled groups alone.

        Args:
            name: The group.
            indices: The present permutation.
            terms: Its known terms.

        Returns:
            ``[*outer, n, n]``.
        """
        return self._keep(name, indices, [term for term in terms if term not in self._fixed[name]]).total

    def _every(self, name: str) -> Sequence[Term]:
        return (*self._fixed[name], *self._varying[name])

    def recomputed(self, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> Tensor:
        """Return the part of some terms, computed from nothing.

        Args:
            name: The group.
            indices: The present permutation.
            terms: Terms that the group stands in.

        Returns:
            ``[*outer, n, n]``.
        """
        return self._add(self._matrix(name, indices), name, indices, terms, empty=True)

    def _matrix(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return memory for what the units of a group gain."""
        shape = self._layout.index_shape(name)
        return torch.empty((*shape, shape[-1]), dtype=self._dtype, device=indices[name].device)

    def _add(
        self, total: Tensor, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term], *, empty: bool = False
    ) -> Tensor:
        """Add the part of some terms to a matrix, or write it there."""
        if empty and not (terms and self._nested.isdisjoint(terms[0].groups)):
            total.zero_()
        inside = indices
        if name in self._nested:  # seen from a unit of the candidate, the groups within it go with it
            inside = reordered_within(self._layout, indices, name, indices[name].argsort(-1))
        standing = [(term, place) for term in terms for place in term.places(name)]
        for number, (term, place) in enumerate(standing):
            if self._nested.isdisjoint(term.groups):
                new = empty and number == 0
                add_inner_products(total, term, place, indices, self._workspace, empty=new)
                continue
            front = [term.places(outer)[0] for outer in self._layout.ancestors(name)]
            moved = act_on_cell(self._layout, inside, term.candidate, term.atoms, skip=(place,))
            total += inner_products(term.reference, moved, batch=front, compared=[place])
        return total

    def constant_part(self, name: str, indices: Mapping[str, Tensor]) -> Tensor:
        """Return the part of a matrix that depends on no other group; not to be written into.

        Args:
            name: The group.
            indices: The present permutation, on which the part does not depend.

        Returns:
            ``[*outer, n, n]``.
        """
        if name not in self._constant:
            self._constant[name] = self.recomputed(name, indices, self._fixed[name])
        return self._constant[name]

    def _keep(self, name: str, indices: Mapping[str, Tensor], terms: list[Term]) -> _Kept:
        """Compute the sum over the constant and some other terms, and keep it, where the last one was."""
        kept, fixed = self._kept.get(name), self._fixed[name]
        total = self._matrix(name, indices) if kept is None else kept.total
        if fixed:
            total.copy_(self.constant_part(name, indices))
        self._add(total, name, indices, terms, empty=not fixed)
        self._kept[name] = _Kept(total, _others_of(name, indices, terms), terms)
        return self._kept[name]

    def _brought_up_to_date(self, name: str, kept: _Kept, indices: Mapping[str, Tensor]) -> bool:
        """Bring a matrix up to date if that is less work than computing it anew; return whether it is."""
        if all(index is kept.indices[group] for group, index in _others_of(name, indices, kept.terms).items()):
            return True
        return self._size[name] > _SMALL and kept.updates < _MOST_UPDATES and self._update(name, kept, indices)

    def _update(self, name: str, kept: _Kept, indices: Mapping[str, Tensor]) -> bool:
        """Bring a matrix up to date if that is less work than computing it anew; return whether it was done."""
        now = _others_of(name, indices, kept.terms)
        changed = {group: (index != kept.indices[group]).nonzero() for group, index in now.items()}
        changed = {group: places[:, 0] for group, places in changed.items() if len(places)}
        plans = [(term, self._along(name, term, changed)) for term in kept.terms]
        plans = [(term, along) for term, along in plans if not changed.keys().isdisjoint(_others(name, term))]
        work = sum(
            term.candidate.numel() * (1.0 if along is None else len(changed[along]) / now[along].numel())
            for term, along in plans
        )
        if work > _MOST_CHANGED * sum(term.candidate.numel() for term in kept.terms):
            return False
        for term, along in plans:
            self._add_change(name, term, along, None if along is None else changed[along], kept, now)
        kept.indices = now
        kept.updates += bool(changed)
        return True

    def _along(self, name: str, term: Term, changed: Mapping[str, Tensor]) -> str | None:
        """Return the one group along which alone a term changed, if there is just one place of it."""
        moved = [group for group in _others(name, term) if group in changed]
        return moved[0] if len(moved) == 1 and moved[0] != name and moved[0] not in self._nested else None

    def _add_change(  # ruff: ignore[too-many-positional-arguments] - one step of `_update`
        self, name: str, term: Term, along: str | None, units: Tensor | None, kept: _Kept, now: Mapping[str, Tensor]
    ) -> None:
        reference, candidate, skipped = term.reference, term.candidate, []
        sides: list[Tensor] = [candidate, candidate]
        if along is not None and units is not None:
            place = term.places(along)[0]
            skipped = [place]
            reference = reference.index_select(1 + place, units)
            sides = [candidate.index_select(1 + place, index[along][units]) for index in (now, kept.indices)]
        for place in term.places(name):
            new, old = (
                act_on_cell(self._layout, index, side, term.atoms, skip=(place, *skipped))
                for index, side in zip((now, kept.indices), sides, strict=True)
            )
            kept.total += inner_products(reference, new - old, batch=[], compared=[place])


def _others(name: str, term: Term) -> list[str]:
    """Return the groups, as often as they stand in a term, whose permutation changes what a group gains there."""
    others = list(term.groups)
    others.remove(name)
    return others


def _others_of(name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> dict[str, Tensor]:
    return {group: indices[group] for term in terms for group in _others(name, term)}


def reordered_within(layout: Layout, indices: Mapping[str, Tensor], name: str, order: Tensor) -> dict[str, Tensor]:
    """Return indices with the groups within a group reordered as its units are.

    Args:
        layout: The groups.
        indices: One index a group.
        name: The group whose units are reordered.
        order: ``[*outer, n]``.

    Returns:
        The indices, those of the group itself untouched.
    """
    reordered = dict(indices)
    for other in layout.groups:
        ancestors = layout.ancestors(other)
        if name in ancestors:
            depth = ancestors.index(name)
            shape = [*order.shape, *[1] * (reordered[other].dim() - depth - 1)]
            reordered[other] = torch.take_along_dim(reordered[other], order.reshape(shape), dim=depth)
    return reordered
