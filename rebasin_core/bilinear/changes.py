"""The difference that changed permutations make to a term, restricted to the permuted units if possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.pieces import MAX_ENTRIES, pieces
from rebasin_core.bilinear.stacked_cell import whole
from rebasin_core.symmetry.action import act_on_cell
from rebasin_core.symmetry.axis import Atom
from rebasin_core.tensors.device import select

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout

MAX_UPDATES = 12
"""Number of updates after which a matrix is recomputed, since rounding errors accumulate."""

SMALL = 100_000
"""Total number of entries of terms below which a matrix is recomputed: bookkeeping would take longer."""

MAX_CHANGED = 0.85
"""Share of the products of a matrix above which it is recomputed instead of updated."""


@final
@dataclass(frozen=True, slots=True)
class _ChangedUnits:
    """Units of consecutive dimensions of a term, flattened, that two sets of indices permute differently.

    Attributes:
        first: Position of the first dimension among the atoms.
        count: Number of dimensions.
        units: ``[k]``, the units of the flattened dimensions.
        now: ``[k]``, which units of the candidate they are now.
        before: ``[k]``, which they were before.
    """

    first: int
    count: int
    units: Tensor
    now: Tensor
    before: Tensor


@final
@dataclass(frozen=True, eq=False, slots=True)
class TermChange:
    """The difference between the candidate of a term with two sets of permutations.

    Attributes:
        layout: The groups.
        term: The term.
        fixed: Positions of the compared units, which are not permuted.
        now: The new permutations.
        before: The old permutations.
        units: The units in which both differ, if these are units of one family of nested groups; None if the whole
            candidate is compared.
    """

    layout: Layout
    term: Term
    fixed: tuple[int, ...]
    now: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    units: _ChangedUnits | None

    @classmethod
    def of(
        cls,
        layout: Layout,
        term: Term,
        fixed: Sequence[int],
        now: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
    ) -> TermChange | None:
        """Find the units that two sets of permutations permute differently.

        Args:
            layout: The groups.
            term: A term.
            fixed: Positions of the compared units, which are not permuted.
            now: The new permutations of the other groups.
            before: The old permutations.

        Returns:
            The change; None if there is no such unit.
        """
        families: dict[str, list[int]] = {}
        for position, group in term.grouped:
            families.setdefault((*layout.ancestors(group), group)[0], []).append(position)
        found: list[_ChangedUnits | None] = []
        for positions in families.values():
            others = [position for position in positions if position not in fixed]
            groups = [str(term.atoms[position].group) for position in others]
            if any(now[group] is not before[group] for group in groups):
                is_apart = len(others) == len(positions)
                found.append(_changed_units(layout, term, others, now, before) if is_apart else None)
        some = [each for each in found if each is None or len(each.units)]
        if not some:
            return None
        return cls(layout, term, tuple(fixed), now, before, some[0] if len(some) == 1 else None)

    @property
    def work(self) -> float:
        """Number of entries of the candidate that are compared."""
        size = self.term.candidate.numel()
        if self.units is None:
            return size
        dims = self.term.candidate.shape[1:][self.units.first : self.units.first + self.units.count]
        return size * len(self.units.units) / dims.numel()

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, dict[int, int]]]:
        """Yield slices of the reference and of the difference between the permuted candidates.

        Yields:
            Both slices, and for each position among the atoms of the term its position among the dimensions after the
            channels.
        """
        if self.units is None:
            yield from self._differences(self.term, self.term, {p: p for p in range(len(self.term.atoms))})
            return
        changed, term = self.units, self.term
        first, last = changed.first, changed.first + changed.count - 1
        reference = whole(term.reference).flatten(1 + first, 1 + last)
        candidate = whole(term.candidate).flatten(1 + first, 1 + last)
        length = candidate.shape[1 + first]
        # Half a slice: the selected units of three cells are in memory in addition to their permuted slices.
        at_a_time = max(1, MAX_ENTRIES * length // (2 * candidate.numel()))
        position_of = {p: p if p <= first else max(first, p - changed.count + 1) for p in range(len(term.atoms))}
        parts = [each.split(at_a_time) for each in (changed.units, changed.now, changed.before)]
        for units, now, before in zip(*parts, strict=True):
            atoms = (*term.atoms[:first], Atom(len(units)), *term.atoms[last + 1 :])
            own = replace(term, reference=select(reference, 1 + first, units), candidate=candidate, atoms=atoms)
            new = replace(own, candidate=select(candidate, 1 + first, now))
            old = replace(own, candidate=select(candidate, 1 + first, before))
            yield from self._differences(new, old, position_of)

    def _differences(
        self, new: Term, old: Term, position_of: dict[int, int]
    ) -> Iterator[tuple[Tensor, Tensor, dict[int, int]]]:
        fixed = [position_of[position] for position in self.fixed]
        nested = self.layout.nesting
        others = pieces(old, self.before, whole=fixed, nested=nested)
        # Not `zip`, which would keep the slices before they are permuted.
        for reference, after, done in pieces(new, self.now, whole=fixed, nested=nested):
            skip = (*fixed, *done)
            permuted = act_on_cell(self.layout, self.now, after, new.atoms, skip=skip)
            before = act_on_cell(self.layout, self.before, next(others)[1], old.atoms, skip=skip)
            yield reference, permuted - before, position_of


def changes_of(
    layout: Layout,
    terms: Collection[tuple[Term, tuple[int, ...]]],
    now: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
) -> list[TermChange] | None:
    """Return the changes of several terms if an update with them is less work than a computation of all products.

    Args:
        layout: The groups.
        terms: Terms with the positions of the compared units.
        now: The new permutations of all other groups.
        before: The old permutations.

    Returns:
        The changes, without terms that do not change; None if the products should be computed again.
    """
    size = sum(term.candidate.numel() for term, _ in terms)
    if size <= SMALL:
        return None
    found = [change for term, fixed in terms if (change := TermChange.of(layout, term, fixed, now, before)) is not None]
    return found if sum(change.work for change in found) <= MAX_CHANGED * size else None


def _changed_units(
    layout: Layout, term: Term, positions: Sequence[int], now: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> _ChangedUnits | None:
    """Return the units of a family of groups that are permuted differently; None if they cannot be selected."""
    atoms = [term.atoms[position] for position in positions]
    groups = {str(atom.group) for atom in atoms}
    is_one = [*positions] == [*range(positions[0], positions[-1] + 1)]
    if not is_one or not all(groups.issuperset(layout.ancestors(group)) for group in groups):
        return None
    sizes = [atom.size for atom in atoms]
    like = now[str(atoms[0].group)]
    numbers = torch.arange(torch.Size(sizes).numel(), device=like.device).view(sizes)
    new = act_on_cell(layout, now, numbers, atoms).flatten()
    old = act_on_cell(layout, before, numbers, atoms).flatten()
    units = (new != old).nonzero()[:, 0]
    return _ChangedUnits(positions[0], len(positions), units, new[units], old[units])
