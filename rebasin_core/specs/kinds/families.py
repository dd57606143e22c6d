"""The linear symmetries of one group, from the degrees of its slots and how operators see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from rebasin_core.specs.folding import Obstacle
from rebasin_core.specs.kinds.nullspace import binary_nullspace, independent_of, integer_nullspace
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.symmetry.linear import Kind
from rebasin_core.symmetry.pairs import Pairs
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rebasin_core.specs.kinds.degree import Degree
    from rebasin_core.specs.kinds.statement import Equation, Seen
    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.linear import Shift, Slot

_NOT_SCALED = {Sight.ANY, Sight.ODD, Sight.CENTERED, Sight.NORM, Sight.SUM}
_NOT_SIGNED = {Sight.ANY, Sight.HOMOGENEOUS, Sight.SUM}
_NOT_MIXED = {Sight.ANY, Sight.HOMOGENEOUS, Sight.ODD, Sight.CENTERED, Sight.EVEN}


@final
@dataclass(frozen=True, slots=True)
class Family:
    """A family of linear maps of the units of a group.

    Attributes:
        kind: The kind of the maps.
        degrees: The degree of every slot that is transformed.
        ones: Slots of scales that must be one.
        zeros: Slots of parameters that must be zero: scales are one plus these parameters.
        pairs: The units that are a pair, for rotations.
        shifts: For flips, the layers after the units.
    """

    kind: Kind
    degrees: Mapping[Slot, int]
    ones: tuple[Slot, ...] = ()
    zeros: tuple[Slot, ...] = ()
    pairs: Pairs = Pairs.HALVES
    shifts: tuple[Shift, ...] = ()

    @property
    def scales(self) -> tuple[Slot, ...]:
        """Slots of the parameters that must be one or zero."""
        return (*self.ones, *self.zeros)


@final
@dataclass(frozen=True, slots=True)
class GroupEvidence:
    """All that the graph states about the units of one group.

    Attributes:
        slots: The occurrences of the group on parameters and buffers.
        vectors: Those on tensors with one axis.
        equations: Equations between degrees.
        seen: How operators see the units.
    """

    slots: Sequence[Slot]
    vectors: Collection[Slot]
    equations: Sequence[Equation]
    seen: Sequence[Seen]

    @property
    def of_offset_scales(self) -> GroupEvidence:
        """The evidence in which the degree of $1 + w$ replaces that of a parameter $w$ without other uses."""
        kept = [one for one in self.seen if not one.is_offset or not self._is_offset_only(one.degree)]
        return replace(self, seen=kept)

    def scalings(self) -> list[Family]:
        """Return the scales and signs of single units."""
        rows = [_difference(equation) for equation in self.equations]
        rows += [dict(one.degree.scale) for one in self.seen if one.sight in _NOT_SCALED]
        signs = [equation.first.sign ^ equation.second.sign for equation in self.equations]
        signs += [one.degree.sign for one in self.seen if one.sight in _NOT_SIGNED]
        scales = integer_nullspace(self.slots, rows)
        flips = binary_nullspace(self.slots, signs)
        found: list[Family] = []
        both: list[frozenset[Slot]] = []
        for degrees in scales:
            odd = frozenset(slot for slot, degree in degrees.items() if degree % 2)
            admits = bool(odd) and not independent_of([odd], flips) and not self._shifts(odd)
            found.append(Family(Kind.NONZERO if admits else Kind.POSITIVE, _oriented(degrees)))
            both += [odd] if admits else []
        for flip in independent_of(flips, both):
            shifts = self._shifts(flip)
            of_flip = FrozenMapping(dict.fromkeys((slot for slot in self.slots if slot in flip), 1))
            found.append(Family(Kind.FLIP if shifts else Kind.SIGN, of_flip, shifts=shifts))
        return found

    def _shifts(self, flip: frozenset[Slot]) -> tuple[Shift, ...]:
        """Return the layers whose biases are shifted if the signs of some slots change."""
        return tuple(
            dict.fromkeys(shift for one in self.seen if len(one.degree.sign & flip) % 2 for shift in one.shifts)
        )

    def maps(self) -> Family | None:
        """Return the family of maps that mix units; None if there is none."""
        scales = self._norm_scales()
        if self._why_not_mixed(scales) is not None:
            return None
        slots = [slot for slot in self.slots if slot not in scales]
        sights = {one.sight for one in self.seen if one.degree.slots - scales}
        zeros = tuple(slot for slot in self.slots if slot in scales & self._offsets())
        ones = tuple(slot for slot in self.slots if slot in scales and slot not in zeros)
        equations = [_difference(equation) for equation in self.equations]
        equations = [{slot: count for slot, count in row.items() if slot not in scales} for row in equations]
        if Sight.NORM not in sights and Sight.SUM not in sights:
            solutions = integer_nullspace(slots, equations)
            if len(solutions) == 1 and set(solutions[0]) == set(slots) and {*map(abs, solutions[0].values())} == {1}:
                return Family(Kind.INVERTIBLE, _oriented(solutions[0]), ones, zeros)
            return None
        parities = [(equation.first.sign ^ equation.second.sign) - scales for equation in self.equations]
        if binary_nullspace(slots, parities) != [frozenset(slots)]:
            return None
        kind = Kind.ORTHOGONAL_FIXING_ONES if Sight.SUM in sights else Kind.ORTHOGONAL
        return Family(kind, FrozenMapping(dict.fromkeys(slots, 1)), ones, zeros)

    def why_not_larger(self, families: Sequence[Family]) -> Reason | None:
        """Return the first operator that excludes larger maps.

        Args:
            families: The maps that the group admits.

        Returns:
            The reason; None if all invertible maps are admitted, or no single operator excludes larger ones.
        """
        kinds = {family.kind for family in families}
        if Kind.INVERTIBLE in kinds:
            return None
        mixing = kinds & {Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES}
        if not mixing and Kind.NONZERO in kinds:
            return self._why_not_mixed(self._norm_scales()) or self._first({Sight.DIAGONAL})
        excluding: list[set[Sight]] = [{Sight.SUM}, {Sight.NORM}] if mixing else [{Sight.ANY}]
        if not mixing:
            excluding = [{Sight.HOMOGENEOUS}, _NOT_SIGNED] if Kind.POSITIVE in kinds else excluding
            excluding += [{Sight.ODD, Sight.CENTERED}, _NOT_SCALED]
        found = [*map(self._first, [*excluding, set(Sight)]), *(one.reason for one in self.seen if one.is_offset)]
        return next((reason for reason in found if reason is not None), None)

    def _first(self, sights: Collection[Sight]) -> Reason | None:
        """Return the first operator that sees the units in one of some ways."""
        return next((one.reason for one in self.seen if one.sight in sights and not one.is_offset), None)

    def obstacle(self, slot: Slot) -> Obstacle | None:
        """Return the reason why a slot admits no scales.

        Args:
            slot: One of the slots.

        Returns:
            The operator that sees the units of the slot, possibly through another tensor whose units are tied to them;
            None if it admits scales.
        """
        if any(slot in family.degrees for family in self.scalings() if not family.kind.is_sign):
            return None
        fixed = self._fixed_slots()
        if slot not in fixed:
            return Obstacle("several operators together fix the scale of its units")
        reason, equation = fixed[slot]
        own = (equation.first.own_slot, equation.second.own_slot) if equation is not None else ()
        for other in own:
            if other is not None and other != slot and other in fixed:
                return Obstacle(str(fixed[other][0]), other.tensor)
        while equation is not None:
            involved = (equation.first.slots | equation.second.slots) & fixed.keys() - {slot}
            slot = next(other for other in self.slots if other in involved)
            reason, equation = fixed[slot]
        return Obstacle(str(reason))

    def _fixed_slots(self) -> dict[Slot, tuple[Reason, Equation | None]]:
        """Return the slots whose degree is zero, each with the operator that sees it or the equation that implies it.

        An equation implies it for a slot if it is the only one there whose degree is not known to be zero.
        """
        rows: list[tuple[dict[Slot, int], Reason, Equation | None]] = [
            (dict(one.degree.scale), one.reason, None) for one in self.seen if one.sight in _NOT_SCALED
        ]
        rows += [(_difference(equation), equation.reason, equation) for equation in self.equations]
        fixed: dict[Slot, tuple[Reason, Equation | None]] = {}
        while True:
            before = len(fixed)
            for row, reason, equation in rows:
                free = [slot for slot in row if slot not in fixed]
                if len(free) == 1:
                    fixed[free[0]] = reason, equation
            if len(fixed) == before:
                return fixed

    def _norm_scales(self) -> frozenset[Slot]:
        """Return the slots of scales: vectors by which units are multiplied."""
        return frozenset(one.scale for one in self.seen if one.scale is not None and one.scale in self.vectors)

    def _offsets(self) -> frozenset[Slot]:
        """Return the slots of parameters to which one is added."""
        return frozenset(one.degree.own_slot for one in self.seen if one.is_offset and one.degree.own_slot is not None)

    def _is_offset_only(self, degree: Degree) -> bool:
        """Return whether a parameter has no other use than that one is added to it."""
        used = [one.degree for one in self.seen if not one.is_offset]
        used += [side for equation in self.equations for side in (equation.first, equation.second)]
        return not any(other.own_slot == degree.own_slot for other in used)

    def _why_not_mixed(self, scales: frozenset[Slot]) -> Reason | None:
        for one in self.seen:
            if one.is_offset and one.degree.own_slot in scales and not self._is_offset_only(one.degree):
                return one.reason
            if one.degree.scale_slot in scales:
                continue
            if one.sight in _NOT_MIXED or (one.sight is Sight.DIAGONAL and one.scale not in scales):
                return one.reason
        return None


def _oriented(degrees: Mapping[Slot, int]) -> Mapping[Slot, int]:
    """Return degrees that are positive where units are produced: in most tensors, along their first dimension."""
    total = sum(degree if slot.dim == 0 else -degree for slot, degree in degrees.items())
    return FrozenMapping({slot: -degree if total < 0 else degree for slot, degree in degrees.items()})


def _difference(equation: Equation) -> dict[Slot, int]:
    return dict(equation.first.plus(equation.second, 1 if equation.is_contraction else -1).scale)
