"""Derive the linear symmetries of all groups from the graph of a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, final

from rebasin_core.specs.kinds.extension import extended_symmetry, fixed_groups, is_uniform
from rebasin_core.specs.kinds.families import Family, GroupEvidence
from rebasin_core.specs.kinds.statement import Seen
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import Reason
from rebasin_core.symmetry.linear import Kind, LinearSymmetry, Symmetry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from rebasin_core.specs.folding import Obstacle
    from rebasin_core.specs.kinds.degree import Degree
    from rebasin_core.specs.kinds.slots import Slots
    from rebasin_core.specs.kinds.statement import Equation
    from rebasin_core.specs.kinds.unpermuted import PairKey
    from rebasin_core.symmetry.linear import Slot

_FIXED = Reason("none", "a constant", "it is fixed")


@final
@dataclass(frozen=True, slots=True)
class Symmetries:
    """The linear symmetries of a model.

    Attributes:
        plain: Those of the model with any parameters.
        folded: Those of the model if the scales of its normalizations are one.
        offset_scales: Families of factors of scales $1 + w$, where $w$ is a parameter, and of other tensors.
        obstacles: For the scales that no factors can make one, the reason.
        limits: For every group that does not admit all invertible maps, the operator that excludes larger ones.
    """

    plain: Symmetry
    folded: Symmetry
    offset_scales: tuple[LinearSymmetry, ...]
    obstacles: Mapping[str, Obstacle]
    limits: Mapping[str, Reason]


@final
class Derivation:
    """The symmetries that the second interpretation of a graph admits.

    Args:
        slots: The slots, after the second interpretation.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._layout = slots.layout
        self._fixed = fixed_groups(slots)
        self._evidence = self._evidence_by_group()
        self._candidates = self._outer_candidates()

    def rotated(self) -> Mapping[Slot, PairKey]:
        """Return the pairs of units, along which constants vary, that admit rotations."""
        pairs = self._slots.pairs
        found = [own for name, own in self._fixed.items() if self._rotation(name) is not None]
        return {slot: pairs[slot] for own in found for slot in own}

    def symmetries(self) -> Symmetries:
        """Return the linear symmetries."""
        of_fixed = {name: self._families_of_fixed(name) for name in self._fixed}
        of_fixed = {name: families for name, families in of_fixed.items() if families}
        within = {name: self._outer_of(name) for name in of_fixed}
        # Maps that mix outer units do not commute with different maps of the inner units of each.
        outer = {group.within for group in self._layout.groups.values()} | set(within.values())
        own = {name: one for name, one in self._evidence.items() if name not in self._fixed}
        maps = {name: None if name in outer else one.maps() for name, one in own.items()}
        found: list[Symmetry] = []
        limits: dict[str, Reason] = {}
        for folded in (False, True):
            families = {name: _families(one, maps[name], folded=folded) for name, one in own.items()}
            scales = {slot.tensor for each in families.values() for family in each for slot in family.scales}
            kept = {name: each for name, each in of_fixed.items() if not _acts_on(each, scales)}
            found.append(self._symmetry({**families, **kept}, within))
            limits = self._limits(families)
        plain, folding = found
        more = {name: self._with_offset_scales(name, family) for name, family in maps.items()}
        both = self._symmetry({**more, **of_fixed}, within)
        of_scales = tuple(linear for linear in both.linear if linear not in plain.linear)
        return Symmetries(plain, folding, of_scales, self._obstacles(maps), limits)

    def _with_offset_scales(self, name: str, maps: Family | None) -> list[Family]:
        """Return the plain families of a group, and those of factors of scales that are one plus a parameter."""
        plain = _families(self._evidence[name], maps, folded=False)
        zeros = set() if maps is None else {*maps.zeros}
        more = self._evidence[name].of_offset_scales.scalings() if zeros else []
        return plain + [family for family in more if family.kind is not Kind.SIGN and zeros & family.degrees.keys()]

    def _obstacles(self, maps: Mapping[str, Family | None]) -> dict[str, Obstacle]:
        """Return the reasons why scales that must be one for maps that mix units admit no factors themselves."""
        found = {
            slot.tensor: self._evidence[name].of_offset_scales.obstacle(slot)
            for name, family in maps.items()
            for slot in (() if family is None else family.scales)
        }
        return {name: obstacle for name, obstacle in found.items() if obstacle is not None}

    def _limits(self, families: Mapping[str, list[Family]]) -> dict[str, Reason]:
        """Return the operator that excludes larger maps of each group, unless groups nested in it have maps."""
        outer = {name for other, own in families.items() if own for name in self._layout.ancestors(other)}
        limits = {name: self._evidence[name].why_not_larger(own) for name, own in families.items() if name not in outer}
        return {name: reason for name, reason in limits.items() if reason is not None}

    def _symmetry(self, families: Mapping[str, list[Family]], within: Mapping[str, str | None]) -> Symmetry:
        def outer_of(name: str) -> Collection[str]:
            if name not in self._fixed:
                return self._layout.ancestors(name)
            outer = within[name]
            return () if outer is None else (*self._layout.ancestors(outer), outer)

        found = {
            name: [family for family in own if not any(_is_within(family, other) for other in inner)]
            for name, own in families.items()
            for inner in [[family for other, each in families.items() if name in outer_of(other) for family in each]]
        }
        return extended_symmetry(self._slots, {name: own for name, own in found.items() if own}, within)

    def _families_of_fixed(self, name: str) -> list[Family]:
        """Return the families of maps of a group whose units cannot be permuted."""
        if any(slot in self._slots.pairs for slot in self._fixed[name]):
            rotation = self._rotation(name)
            return [] if rotation is None else [rotation]
        return self._evidence[name].scalings() if is_uniform(self._slots, self._fixed[name]) else []

    def _rotation(self, name: str) -> Family | None:
        """Return the rotations of pairs of units: maps that commute with all that is done to them."""
        own = self._fixed[name]
        pairings = {self._slots.pairings.get(slot) for slot in own}
        pairs = pairings.pop()
        if not is_uniform(self._slots, own) or pairs is None or pairings:
            return None
        found = self._evidence[name].maps()
        is_invertible = found is not None and found.kind is Kind.INVERTIBLE and not found.scales
        return replace(found, kind=Kind.ROTATION, pairs=pairs) if found is not None and is_invertible else None

    def _outer_candidates(self) -> dict[str, set[str]]:
        """Return, for fixed groups, the groups that occur exactly once in every cell with them."""
        group_of = self._group_of()
        found: dict[str, set[str]] = {}
        for cell in self._slots.constraints.cells():
            counts = Counter(group_of[slot] for slot in cell)
            once = {name for name, number in counts.items() if number == 1 and name not in self._fixed}
            for name in counts.keys() & self._fixed.keys():
                found[name] = found.get(name, once) & once
        return found

    def _outer_of(self, name: str) -> str | None:
        """Return the group in which a fixed group is nested: the one with the largest number of units."""
        candidates = self._candidates.get(name, set())
        possible = [one for one in self._layout.groups if {one, *self._layout.ancestors(one)} <= candidates]
        return max(possible, key=lambda one: prod(self._layout.index_shape(one)), default=None)

    def _group_of(self) -> dict[Slot, str]:
        groups = {**self._slots.of_group, **self._fixed}
        return {slot: name for name, slots in groups.items() for slot in slots}

    def _evidence_by_group(self) -> dict[str, GroupEvidence]:
        """Return the statements of the graph on each group; a statement on several groups is one on each."""
        constraints = self._slots.constraints
        group_of = self._group_of()
        slots_of = {**self._slots.of_group, **self._fixed}
        equations: dict[str, list[Equation]] = {name: [] for name in slots_of}
        seen: dict[str, list[Seen]] = {name: [] for name in slots_of}

        def groups(*degrees: Degree) -> set[str]:
            return {group_of[slot] for degree in degrees for slot in degree.slots}

        for equation in constraints.equations:
            involved = groups(equation.first, equation.second)
            if len(involved) == 1:
                equations[involved.pop()].append(equation)
                continue
            for name in involved:
                for degree in (equation.first, equation.second):
                    seen[name].append(Seen(degree, Sight.ANY, equation.reason))
        undivided = (Seen(degree, Sight.ANY, _FIXED) for degree in constraints.undivided())
        for one in chain(constraints.seen, undivided):
            for name in groups(one.degree):
                seen[name].append(one)
        return {
            name: GroupEvidence(
                slots,
                frozenset(slot for slot in slots if len(self._layout.axes[slot.tensor]) == 1),
                equations[name],
                seen[name],
            )
            for name, slots in slots_of.items()
        }


def _acts_on(families: Iterable[Family], tensors: Collection[str]) -> bool:
    """Return whether a family transforms one of some tensors."""
    return any(slot.tensor in tensors for family in families for slot in family.degrees)


def _families(evidence: GroupEvidence, maps: Family | None, *, folded: bool) -> list[Family]:
    """Return the maps that mix units if there are any (and scales are folded, where they must be), else scalings."""
    return evidence.scalings() if maps is None or (maps.scales and not folded) else [maps]


def _is_within(family: Family, other: Family) -> bool:
    """Return whether a scaling of outer units is one of the maps of inner units."""
    outer = {slot.tensor: degree for slot, degree in family.degrees.items()}
    inner = {slot.tensor: degree for slot, degree in other.degrees.items()}
    flipped = {tensor: -degree for tensor, degree in inner.items()}
    return outer in (inner, flipped) or (family.kind is Kind.SIGN and outer.keys() == inner.keys())
