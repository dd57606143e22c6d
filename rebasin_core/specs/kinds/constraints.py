"""The second interpretation of a graph: how the units of every axis are transformed and seen.

The first interpretation finds the groups. Here, every occurrence of a group on a parameter, a *slot*, has a variable of
its own, with an unknown degree. The rules of the operators are applied again; their statements on the combination of
axes becomes equations between degrees, and how they see units becomes a limit of the kind of the group.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, final

from rebasin_core.specs.kinds.degree import Degree
from rebasin_core.specs.kinds.statement import Equation, Seen, seen_by
from rebasin_core.specs.unification.constraints import Constraints, factor_atomic
from rebasin_core.specs.unification.nesting import cells
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import (
    Reason,
    Uniform,
    Variable,
    concatenation,
    length,
    substitute,
    without_zeros,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rebasin_core.specs.kinds.statement import Centering
    from rebasin_core.specs.operators.base import Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.constraints import Part, PartPath
    from rebasin_core.specs.unification.induced import InducedAxis
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Factor
    from rebasin_core.symmetry.linear import Shift, Slot

_SCALED = "units are multiplied by a vector"
_SPLIT = Reason("split", "an axis", "its units are used differently")


@final
class DegreeConstraints:
    """Equations between the degrees of the axes of a graph; see `AxisConstraints`.

    Args:
        sights: How operators see the units of axes, by operator name.

    Attributes:
        equations: All equations.
        seen: How operators see axes.
        tracked: Slots for which tensors are recorded.
        tensors: The axes of the recorded tensors.
    """

    def __init__(self, sights: Sights) -> None:
        self._axes = Constraints()
        self._sights = sights
        self._degrees: dict[Variable, Degree] = {}
        # The axes of the parts of stacked tensors, by variable; and the number of restrictions when it was made.
        self._stacked: dict[Variable, list[AxisTerm]] = {}
        self._num_restrictions = 0
        self.equations: list[Equation] = []
        self.seen: list[Seen] = []
        self.tracked: set[Slot] = set()
        self.tensors: list[AxisTerms] = []

    @property
    def restrictions(self) -> dict[tuple[Variable, Variable, int], AxisTerm]:
        """The axes of the parts of stacked tensors."""
        return self._axes.restrictions

    @property
    def induced(self) -> dict[Variable, InducedAxis]:
        """Axes whose order is induced by another axis."""
        return self._axes.induced

    def new_axis(self, size: int, degree: Degree) -> Variable:
        """Return a variable with a degree.

        Args:
            size: Length of the axis.
            degree: The degree.

        Returns:
            The variable; it is fixed, because the groups are derived already.
        """
        variable = Variable(size, _SPLIT)
        self._degrees[variable] = degree
        return variable

    def observe(self, terms: AxisTerms) -> None:
        """Record that a tensor with these axes exists; see `Constraints.observe`.

        Args:
            terms: One term per dimension.
        """
        self._axes.observe(terms)
        if self.tracked and any(degree.origin in self.tracked for term in terms for degree in self._degrees_of(term)):
            self.tensors.append(terms)

    def cells(self) -> Iterator[tuple[Slot, ...]]:
        """Yield, for every cell of the observed tensors, a slot of the group of each axis; see `nesting.cells`."""
        for terms in dict.fromkeys(tuple(map(substitute, terms)) for terms in self.tensors):
            for cell in cells(self._axes, terms, self._degrees.__contains__):
                origins = (self._degrees[factor].origin for factor in cell if factor in self._degrees)
                yield tuple(origin for origin in origins if origin is not None)

    def degree_of(self, term: AxisTerm) -> Degree | None:
        """Return the degree of an axis.

        Args:
            term: The axis.

        Returns:
            The degree; None if the axis is not that of one slot as a whole.
        """
        factors = substitute(term)
        return self._degrees.get(factors[0]) if len(factors) == 1 and isinstance(factors[0], Variable) else None

    def see(self, term: AxisTerm, sight: Sight, reason: Reason) -> None:
        """Record how an operator sees an axis.

        Args:
            term: The axis.
            sight: How it is seen.
            reason: The operator.
        """
        for degree in self._degrees_of(term):
            if sight is Sight.SUM and degree.square_of is not None:  # a sum of squares
                self.seen.append(Seen(degree.square_of, Sight.NORM, reason))
            else:
                self._use(degree, sight, reason)

    def freeze(self, term: AxisTerm, reason: Reason) -> AxisTerm:
        """Record that single units are seen.

        Args:
            term: The axis.
            reason: The operator.

        Returns:
            The axis.
        """
        self.see(term, Sight.ANY, reason)
        return self._axes.freeze(term, reason)

    def unify(self, first: AxisTerm, second: AxisTerm, reason: Reason, relation: Relation = Relation.TIED) -> AxisTerm:
        """Relate the degrees of two axes.

        Args:
            first: An axis.
            second: Another axis of the same length.
            reason: The operator.
            relation: How their elements are combined.

        Returns:
            The axis of the combination.
        """
        if not self._has_degrees(first) and not self._has_degrees(second):
            return self._axes.unify(first, second, reason)
        found = self._related(deque(substitute(first)), deque(substitute(second)), reason, relation)
        if found is not None:
            return found
        for term in (first, second):
            self.see(term, Sight.ANY, reason)
        return first if self._has_degrees(first) else second

    def slots_in(self, term: AxisTerm) -> frozenset[Slot]:
        """Return all slots on which the degree of an axis depends."""
        return frozenset(slot for degree in self._degrees_of(term) for slot in degree.slots)

    def split(self, term: AxisTerm, sizes: Sequence[int], reason: Reason) -> list[Part]:
        """Split an axis.

        Args:
            term: The axis.
            sizes: Lengths of the parts.
            reason: The operator.

        Returns:
            The parts.
        """
        return self._axes.split(term, sizes, reason)

    def divide(self, factors: deque[Factor], size: int, reason: Reason) -> None:
        """Divide the first factor of a product; equal parts become a stacked tensor.

        Args:
            factors: The factors; modified.
            size: Length of the first new factor.
            reason: The operator.
        """
        first = factors[0]
        parts = [substitute(part) for part in first.parts] if isinstance(first, Variable) else []
        shapes = {tuple(factor.size for factor in part) for part in parts}
        if len(parts) != size or len(shapes) != 1 or not self._has_degrees((first,)):
            self._axes.divide(factors, size, reason)
            return
        factors.popleft()
        new = Variable(size, reason)
        new.parts = ((),) * size
        factors.extendleft(reversed([new, *(self.stacked(new, own) for own in zip(*parts, strict=True))]))

    def restrict(self, term: AxisTerm, path: PartPath) -> AxisTerm:
        """Restrict an axis to a part of another axis of the same tensor.

        Args:
            term: The axis.
            path: The part.

        Returns:
            The axis of the part.
        """
        return self._axes.restrict(term, path)

    def conclude(self, call: Call, results: list[AxisTerms], centering: Centering | None = None) -> list[AxisTerms]:
        """Record how an operator sees the axes that it keeps, after its rule was applied.

        Args:
            call: The call.
            results: The axes of its outputs.
            centering: The layers after the units, if the operator is an odd function plus a constant.

        Returns:
            The axes of its outputs; axes of absolute values are new.
        """
        sight, reason = seen_by(call, self._sights, centering)
        if call.operator.endswith("_") and sight in {Sight.LINEAR, Sight.EVEN}:
            before = [variable for term in call.first for variable in self._variables(term)]
            after = [variable for terms in results for term in terms for variable in self._variables(term)]
            sight = sight if before == after and sight is Sight.LINEAR else Sight.ANY
        if sight is Sight.COPY:
            return results
        results = [tuple(map(without_zeros, terms)) for terms in results]  # such as the mean of a normalization
        if sight is Sight.LINEAR:
            return results
        shifts = centering.shifts if centering is not None and sight is Sight.CENTERED else ()
        terms = [term for terms in (*results, *(call.tensors if sight is Sight.ANY else ())) for term in terms]
        for variable in {variable for term in terms for variable in self._variables(term)}:
            seen_as = Sight.HOMOGENEOUS if sight is Sight.POSITIVITY else sight
            self._use(self._degrees[variable], seen_as, reason, shifts=shifts)
        if sight in {Sight.EVEN, Sight.POSITIVITY}:
            is_scaled = sight is Sight.EVEN
            return [tuple(self._without_sign(term, is_scaled=is_scaled) for term in terms) for terms in results]
        return results

    def undivided(self) -> Iterator[Degree]:
        """Yield the degrees of axes that were divided into units after all."""
        for variable, degree in self._degrees.items():
            if variable.parts or variable.binding is not None:
                yield degree

    def stacked(self, new: Variable, factors: Sequence[Factor]) -> Factor:
        """Return the axis of a stacked tensor, from that of each part.

        Args:
            new: The axis along which they are stacked.
            factors: The axis in each part.

        Returns:
            The axis.
        """
        if all(factor is factors[0] for factor in factors):
            return factors[0]
        found = Variable(factors[0].size, _SPLIT)
        for index, factor in enumerate(factors):
            self._axes.restrictions[found, new, index] = (factor,)
        return found

    def _use(
        self, degree: Degree, sight: Sight, reason: Reason, scale: Slot | None = None, shifts: Sequence[Shift] = ()
    ) -> None:
        if degree.square_of is not None:
            self.seen.append(Seen(degree.square_of, Sight.DIAGONAL, reason))
        self.seen.append(Seen(degree, sight, reason, scale, shifts=tuple(shifts)))

    def _variables(self, term: AxisTerm, above: frozenset[Variable] = frozenset()) -> Iterator[Variable]:
        """Yield the variables with degrees in a term, whose parts may contain the variables above it again."""
        for factor in substitute(term):
            if isinstance(factor, Uniform) or factor in above:
                continue
            if factor in self._degrees:
                yield factor
            for part in (*factor.parts, *self._parts_when_stacked(factor)):
                yield from self._variables(part, above | {factor})

    def _parts_when_stacked(self, variable: Variable) -> Sequence[AxisTerm]:
        """Return the axis of each part of a stacked tensor that has different axes in each."""
        restrictions = self._axes.restrictions
        if len(restrictions) != self._num_restrictions:
            self._num_restrictions = len(restrictions)
            self._stacked = {}
            for (own, _, _), term in restrictions.items():
                self._stacked.setdefault(own, []).append(term)
        return self._stacked.get(variable, ())

    def _degrees_of(self, term: AxisTerm) -> list[Degree]:
        return [self._degrees[variable] for variable in dict.fromkeys(self._variables(term))]

    def _has_degrees(self, term: AxisTerm) -> bool:
        return next(self._variables(term), None) is not None

    def _related(
        self, left: deque[Factor], right: deque[Factor], reason: Reason, relation: Relation
    ) -> AxisTerm | None:
        """Return the combination of two products; None if they have different factors."""
        found: list[Factor] = []
        while left and right:
            if left[0].size != right[0].size:
                long, short = (left, right) if left[0].size > right[0].size else (right, left)
                if self._has_degrees((long[0],)) or not factor_atomic(long, short[0].size):
                    return None
                continue
            one = self._related_factors(left.popleft(), right.popleft(), reason, relation)
            if one is None:
                return None
            found.append(one)
        return tuple(found)

    def _related_factors(self, x: Factor, y: Factor, reason: Reason, relation: Relation) -> Factor | None:
        x_has, y_has = self._has_degrees((x,)), self._has_degrees((y,))
        if not (x_has and y_has):
            return self._with_constant(x, y, reason, relation)
        if isinstance(x, Uniform) or isinstance(y, Uniform) or (x is y and relation is Relation.EQUAL):
            return x
        if x in self._degrees and y in self._degrees:
            return self._related_variables(x, y, reason, relation)
        if [length(part) for part in x.parts] != [length(part) for part in y.parts] or not x.parts:
            return None
        parts = [self.unify(p, q, reason, relation) for p, q in zip(x.parts, y.parts, strict=True)]
        same = all(substitute(new) == substitute(old) for new, old in zip(parts, x.parts, strict=True))
        return x if same else concatenation(parts)[0]

    def _related_variables(self, x: Variable, y: Variable, reason: Reason, relation: Relation) -> Variable:
        first, second = self._degrees[x], self._degrees[y]
        if relation in {Relation.EQUAL, Relation.CONTRACTED}:
            for degree in (first, second):
                if degree.square_of is not None:
                    self.seen.append(Seen(degree.square_of, Sight.DIAGONAL, reason))
            self.equations.append(Equation(first, second, relation is Relation.CONTRACTED, reason))
            return self._computed(x)
        if relation is Relation.TIED:
            tied = replace(reason, why="units are combined by any function")
            self._use(first, Sight.ANY, tied)
            self._use(second, Sight.ANY, tied)
            return x
        total = first.plus(second, -1 if relation is Relation.QUOTIENT else 1)
        if x is y and relation is Relation.PRODUCT:
            return self.new_axis(x.size, replace(total, sign=frozenset(), square_of=first))
        scaled = replace(reason, why=_SCALED)
        self._use(first, Sight.DIAGONAL, scaled, second.scale_slot)
        self._use(second, Sight.DIAGONAL, scaled, first.scale_slot)
        return self.new_axis(x.size, total)

    def _computed(self, x: Variable) -> Variable:
        """Return the axis of a tensor that is computed from one with the same degree."""
        degree = self._degrees[x]
        if degree.scale_slot is None:
            return x
        return self.new_axis(x.size, replace(degree, own_slot=None, offset_slot=None))

    def _with_constant(self, x: Factor, y: Factor, reason: Reason, relation: Relation) -> Factor:
        """Return the combination of an axis with one along which a tensor has given values."""
        if not self._has_degrees((x,)) and not self._has_degrees((y,)):
            return self._axes.unify(without_zeros((x,)), without_zeros((y,)), reason)[0]
        own, constant = (x, y) if self._has_degrees((x,)) else (y, x)
        is_uniform = isinstance(constant, Uniform)
        if relation in {Relation.PRODUCT, Relation.QUOTIENT}:
            if relation is Relation.QUOTIENT and own is y:
                self.see((own,), Sight.ANY, reason)
            elif not is_uniform:
                self.see((own,), Sight.DIAGONAL, replace(reason, why=_SCALED))
        elif not (isinstance(constant, Uniform) and constant.is_zero and relation is not Relation.TIED):
            sums = is_uniform and relation is not Relation.TIED
            why = "the same number is added to all units" if sums else "units are combined with fixed elements"
            self.see((own,), Sight.SUM if sums else Sight.ANY, replace(reason, why=why))
            if isinstance(own, Variable) and own in self._degrees:
                return self._computed(own)
        return own

    def _without_sign(self, term: AxisTerm, *, is_scaled: bool) -> AxisTerm:
        """Return the axis of absolute values, or of functions that do not depend on scales either."""
        found: list[Factor] = []
        for factor in substitute(term):
            if isinstance(factor, Variable) and factor in self._degrees:
                degree = self._degrees[factor]
                scale = degree.scale if is_scaled else Degree().scale
                found.append(self.new_axis(factor.size, Degree(scale, origin=degree.origin)))
            elif isinstance(factor, Variable) and factor.parts and self._has_degrees((factor,)):
                parts = [self._without_sign(part, is_scaled=is_scaled) for part in factor.parts]
                found.extend(concatenation(parts))
            else:
                self.see((factor,), Sight.ANY, _SPLIT)
                found.append(factor)
        return tuple(found)
