"""What units gain from each other at the present permutation, kept up to date with what changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.matchers.term import Term, inner_products
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
class Gains:
    """Matrices ``[*outer, n, n]``: what each unit of the reference gains from each unit of the candidate.

    A matrix is a sum of one product a term. What depends on no other group is computed once. Of the rest, only the
    columns of units that another group moved since then are computed, as a product with the difference that they make.

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
        self._fixed = {name: [t for t in terms if t.groups == (name,)] for name, terms in touching.items()}
        self._varying = {name: [t for t in terms if t.groups != (name,)] for name, terms in touching.items()}
        self._size = {name: sum(t.candidate.numel() for t in terms) for name, terms in self._varying.items()}
        within = {name for name in layout.groups if layout.ancestors(name)}
        nested = within | {outer for name in within for outer in layout.ancestors(name)}
        self._flat = {
            name: name not in nested and self._size[name] > _SMALL and bool(self._varying[name]) for name in touching
        }
        self._nested = nested

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
        if not self._flat[name]:
            return self.constant_part(name, indices) + self.anew(name, indices, self._varying[name])
        kept = self._kept.get(name)
        if kept is None or kept.updates >= _MOST_UPDATES or not self._update(name, kept, indices):
            kept = self._keep(name, indices, self._varying[name])
        missing = [term for term in self._varying[name] if term not in kept.terms]
        if missing:
            kept.total += self.anew(name, indices, missing)
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
        return self._keep(name, indices, [term for term in terms if term.groups != (name,)]).total

    def _every(self, name: str) -> Sequence[Term]:
        return (*self._fixed[name], *self._varying[name])

    def anew(self, name: str, indices: Mapping[str, Tensor], terms: Sequence[Term]) -> Tensor:
        """Return the part of some terms, computed from nothing.

        Args:
            name: The group.
            indices: The present permutation.
            terms: Terms that the group stands in.

        Returns:
            ``[*outer, n, n]``.
        """
        shape = self._layout.index_shape(name)
        # Seen from a unit of the candidate, the groups within it go with it.
        indices = reordered_within(self._layout, indices, name, indices[name].argsort(-1))
        total: Tensor | None = None
        for term in terms:
            for place in term.places(name):
                moved = act_on_cell(self._layout, indices, term.candidate, term.atoms, skip=(place,))
                front = [term.places(outer)[0] for outer in self._layout.ancestors(name)]
                part = inner_products(term.reference, moved, batch=front, compared=[place])
                total = part if total is None else total.add_(part)
        if total is None:
            return torch.zeros((*shape, shape[-1]), dtype=torch.float32, device=indices[name].device)
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
            self._constant[name] = self.anew(name, indices, self._fixed[name])
        return self._constant[name]

    def _keep(self, name: str, indices: Mapping[str, Tensor], terms: list[Term]) -> _Kept:
        """Compute the sum over the constant and some other terms, and keep it."""
        total = self.constant_part(name, indices) + self.anew(name, indices, terms)
        self._kept[name] = _Kept(total, _others_of(name, indices, terms), terms)
        return self._kept[name]

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
