"""The slots of all groups, each with a variable and a degree of its own in the second interpretation."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from rebasin_core.specs.kinds.constraints import DegreeConstraints
from rebasin_core.specs.kinds.degree import Degree
from rebasin_core.specs.kinds.unpermuted import OpenAxes, is_open, open_pairs, pairs_of
from rebasin_core.specs.unification.terms import Reason, Uniform, Variable, fresh, length, substitute, uniform
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.linear import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rebasin_core.specs.kinds.unpermuted import PairKey
    from rebasin_core.specs.operators.base import Sights
    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Factor
    from rebasin_core.symmetry.axis import Atom, Axis
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.pairs import Pairs

_FIXED = Reason("none", "a constant", "it is fixed")


def _never(key: PairKey) -> bool:
    del key
    return False


@final
class Slots:
    """The slots of all groups: one variable, with a degree of its own, for every occurrence of a group on a tensor.

    Fixed axes along which only constants vary have slots too; see `OpenAxes`.

    Args:
        first: The constraints of the first interpretation, solved.
        solution: Their solution.
        sights: How operators see the units of axes.
        constant: Names of the tensors that must not be changed.
        is_rotated: Function of an axis of pairs along which constants vary: whether it has one slot as a whole.

    Attributes:
        constraints: The constraints of the second interpretation.
        layout: The layout of the permutations.
        axes: The open axes of every tensor.
        of_group: The slots of each group of the layout.
        unpermuted: The atoms of the slots of fixed axes.
        pairs: The axes of pairs among them.
        pairings: Which units of these are a pair.
    """

    def __init__(
        self,
        first: Constraints,
        solution: Solution,
        sights: Sights,
        *,
        constant: Collection[str] = (),
        is_rotated: Callable[[PairKey], bool] = _never,
    ) -> None:
        self.constraints = DegreeConstraints(sights)
        self.layout: Layout = solution.layout
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.of_group: dict[str, list[Slot]] = {name: [] for name in solution.layout.groups}
        self.unpermuted: dict[Slot, Atom] = {}
        self.pairs: dict[Slot, PairKey] = {}
        self.pairings: dict[Slot, Pairs] = {}
        self._first = first
        self._groups = solution.variables
        self._open = OpenAxes(first, solution, constant, is_rotated)

    def terms_of(self, name: str, terms: AxisTerms) -> AxisTerms:
        """Return the axes of a tensor with a variable for every occurrence of a group.

        Args:
            name: Name of the tensor.
            terms: Its axes in the first interpretation.

        Returns:
            Its axes in the second one.
        """
        self.axes[name] = tuple(self._open.axis(name, dim, term) for dim, term in enumerate(terms))
        found: list[AxisTerm] = []
        for dim, (term, axis) in enumerate(zip(terms, self.axes[name], strict=True)):
            atoms = enumerate(atoms_of(axis))
            slots = deque((atom, Slot(name, dim, number)) for number, atom in atoms if atom.group is not None)
            found.append(self._copied(term, slots))
        own = tuple(found)
        self.constraints.observe(own)
        return own

    def _copied(self, term: AxisTerm, slots: deque[tuple[Atom, Slot]]) -> AxisTerm:
        """Return a term with new variables, those of groups with the next slots."""
        factors = substitute(term)
        if not factors:
            return ()
        first, rest = factors[0], factors[1:]
        if slots and open_pairs(slots[0][0]) is not None and open_pairs(slots[0][0]) is pairs_of(factors):
            return (self._new_axis(length(factors), *slots.popleft()),)
        if not isinstance(first, Variable) or not first.parts:
            return (*self._copied_factor(first, slots), *self._copied(rest, slots))
        restricted = [self._first.restriction_of(rest, first, index) for index in range(len(first.parts))]
        whole = Variable(first.size, _FIXED)
        if all(own == rest for own in restricted):
            whole.parts = tuple(self._copied(part, slots) for part in first.parts)
            return (whole, *self._copied(rest, slots))
        pairs = zip(first.parts, restricted, strict=True)
        whole.parts = tuple(self._copied((*part, *own), slots) for part, own in pairs)
        whole.size = length(factors)
        return (whole,)

    def _copied_factor(self, factor: Factor, slots: deque[tuple[Atom, Slot]]) -> AxisTerm:
        if isinstance(factor, Uniform):
            return uniform(factor.size)
        if not slots or not self._open.has_slot(slots[0][1].tensor, factor):
            return fresh(factor.size, factor.fixed or _FIXED)
        atom, slot = slots.popleft()
        if not is_open(atom) and atom.group != self._groups.get(factor):
            message = f"expected the group {self._groups.get(factor)!r} at {slot}, got {atom.group!r}"
            raise AssertionError(message)
        return (self._new_axis(factor.size, atom, slot),)

    def _new_axis(self, size: int, atom: Atom, slot: Slot) -> Variable:
        pairs = open_pairs(atom)
        if pairs is not None:
            index = sum(one.tensor == slot.tensor and one.dim == slot.dim for one in self.pairs)
            self.pairs[slot] = (slot.tensor, slot.dim, index)
            self.pairings[slot] = pairs
        if is_open(atom):
            self.unpermuted[slot] = atom
            self.constraints.tracked.add(slot)
        else:
            self.of_group[str(atom.group)].append(slot)
        return self.constraints.new_axis(size, Degree.of(slot))
