"""Derive the linear symmetries of all groups from the graph of a model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, final

from rebasin_core.specs.kinds.constraints import DegreeConstraints, Seen
from rebasin_core.specs.kinds.degree import Degree
from rebasin_core.specs.kinds.families import Family, GroupEvidence
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import (
    AxisTerm,
    AxisTerms,
    Factor,
    Reason,
    Uniform,
    Variable,
    fresh,
    substitute,
    uniform,
)
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.linear import Kind, LinearSymmetry, Slot, Symmetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rebasin_core.specs.folding import Obstacle
    from rebasin_core.specs.kinds.constraints import Equation
    from rebasin_core.specs.operators.base import Sights
    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.symmetry.layout import Layout

_FIXED = Reason("none", "a constant", "it is fixed")


@final
@dataclass(frozen=True, slots=True)
class Symmetries:
    """The linear symmetries of a model.

    Attributes:
        plain: Those of the model with any parameters.
        folded: Those of the model if the scales of its normalizations are one.
        obstacles: For the scales that no plain symmetry can make one, the reason.
    """

    plain: Symmetry
    folded: Symmetry
    obstacles: Mapping[str, Obstacle]


@final
class Slots:
    """The slots of all groups: one variable, with a degree of its own, for every occurrence of a group on a tensor.

    Args:
        first: The constraints of the first interpretation, solved.
        solution: Their solution.
        sights: How operators see the units of axes.
    """

    def __init__(self, first: Constraints, solution: Solution, sights: Sights) -> None:
        self.constraints = DegreeConstraints(sights)
        self._first = first
        self._groups = solution.variables
        self._layout = solution.layout
        self.of_group: dict[str, list[Slot]] = {name: [] for name in solution.layout.groups}

    def terms_of(self, name: str, terms: AxisTerms) -> AxisTerms:
        """Return the axes of a tensor with a variable for every occurrence of a group.

        Args:
            name: Name of the tensor.
            terms: Its axes in the first interpretation.

        Returns:
            Its axes in the second one.
        """
        found: list[AxisTerm] = []
        for dim, term in enumerate(terms):
            atoms = enumerate(atoms_of(self._layout.axes[name][dim]))
            slots = iter([(atom.group, Slot(name, dim, number)) for number, atom in atoms if atom.group is not None])
            found.append(self._copied(term, slots))
        return tuple(found)

    def _copied(self, term: AxisTerm, slots: Iterator[tuple[str, Slot]]) -> AxisTerm:
        """Return a term with new variables, those of groups with the next slots."""
        factors = substitute(term)
        if not factors:
            return ()
        first, rest = factors[0], factors[1:]
        if not isinstance(first, Variable) or not first.parts:
            return (*self._copied_factor(first, slots), *self._copied(rest, slots))
        restricted = [self._first.restriction_of(rest, first, index) for index in range(len(first.parts))]
        whole = Variable(first.size, _FIXED)
        if all(own == rest for own in restricted):
            whole.parts = tuple(self._copied(part, slots) for part in first.parts)
            return (whole, *self._copied(rest, slots))
        pairs = zip(first.parts, restricted, strict=True)
        whole.parts = tuple(self._copied((*part, *own), slots) for part, own in pairs)
        size = first.size
        for factor in rest:
            size *= factor.size
        whole.size = size
        return (whole,)

    def _copied_factor(self, factor: Factor, slots: Iterator[tuple[str, Slot]]) -> AxisTerm:
        if isinstance(factor, Uniform):
            return uniform(factor.size)
        if factor not in self._groups:
            return fresh(factor.size, factor.fixed or _FIXED)
        name, slot = next(slots)
        if name != self._groups[factor]:
            message = f"expected the group {self._groups[factor]!r} at {slot}, got {name!r}"
            raise AssertionError(message)
        self.of_group[name].append(slot)
        return (self.constraints.new_axis(factor.size, Degree.of(slot)),)

    def symmetries(self) -> Symmetries:
        """Return the linear symmetries, after the second interpretation."""
        evidence = self._evidence()
        # Maps that mix outer units do not commute with different permutations of the inner units of each.
        outer = {group.within for group in self._layout.groups.values()}
        maps = {name: None if name in outer else one.maps() for name, one in evidence.items()}
        plain = {name: _families(one, maps[name], folded=False) for name, one in evidence.items()}
        folded = {name: _families(one, maps[name], folded=True) for name, one in evidence.items()}
        obstacles = {
            slot.tensor: obstacle
            for name, family in maps.items()
            for slot in (family.ones if family is not None else ())
            if (obstacle := evidence[name].obstacle(slot)) is not None
        }
        return Symmetries(self._symmetry(plain), self._symmetry(folded), obstacles)

    def _symmetry(self, families: Mapping[str, list[Family]]) -> Symmetry:
        found = [
            LinearSymmetry(name, family.kind, family.degrees, tuple(dict.fromkeys(slot.tensor for slot in family.ones)))
            for name, own in families.items()
            for family in own
            if not any(_is_within(family, other) for other in _inner(self._layout, families, name))
        ]
        return Symmetry(self._layout, tuple(found))

    def _evidence(self) -> dict[str, GroupEvidence]:
        """Return the statements of the graph on each group; a statement on several groups is one on each."""
        group_of = {slot: name for name, slots in self.of_group.items() for slot in slots}
        equations: dict[str, list[Equation]] = {name: [] for name in self.of_group}
        seen: dict[str, list[Seen]] = {name: [] for name in self.of_group}

        def groups(*degrees: Degree) -> set[str]:
            return {group_of[slot] for degree in degrees for slot in degree.slots}

        for equation in self.constraints.equations:
            involved = groups(equation.first, equation.second)
            if len(involved) == 1:
                equations[involved.pop()].append(equation)
                continue
            for name in involved:
                for degree in (equation.first, equation.second):
                    seen[name].append(Seen(degree, Sight.ANY, equation.reason))
        undivided = (Seen(degree, Sight.ANY, _FIXED) for degree in self.constraints.undivided())
        for one in chain(self.constraints.seen, undivided):
            for name in groups(one.degree):
                seen[name].append(one)
        return {
            name: GroupEvidence(
                slots,
                frozenset(slot for slot in slots if len(self._layout.axes[slot.tensor]) == 1),
                equations[name],
                seen[name],
            )
            for name, slots in self.of_group.items()
        }


def _families(evidence: GroupEvidence, maps: Family | None, *, folded: bool) -> list[Family]:
    """Return the maps that mix units if there are any (and scales are folded, where they must be), else scalings."""
    return evidence.scalings() if maps is None or (maps.ones and not folded) else [maps]


def _inner(layout: Layout, families: Mapping[str, list[Family]], name: str) -> Iterator[Family]:
    """Yield the families of the groups nested in a group."""
    for other, own in families.items():
        if name in layout.ancestors(other):
            yield from own


def _is_within(family: Family, other: Family) -> bool:
    """Return whether a scaling of outer units is one of the maps of inner units."""
    outer = {slot.tensor: degree for slot, degree in family.degrees.items()}
    inner = {slot.tensor: degree for slot, degree in other.degrees.items()}
    flipped = {tensor: -degree for tensor, degree in inner.items()}
    return outer in (inner, flipped) or (family.kind is Kind.SIGN and outer.keys() == inner.keys())
