"""Resolution of restrictions ``v|A_i`` after tracing: separate variables, or equal to v.

During tracing, `Constraints.restrict` introduces a variable for ``v|A_i`` unless an observed tensor excludes it.
`RestrictionResolver` then applies four rules until a fixed point:

1. *Unify*: if v may not vary with A, then ``v|A_i = v`` for all i. If v was bound or split in the meantime, so is its
   restriction: ``(v*w)|A_i = v|A_i * w|A_i`` and ``(v + w)|A_i = v|A_i + w|A_i``.
2. *Split*: if v may vary with A, and A is a concatenation or a fixed axis to the left of it in a parameter, then
   ``v|A_i`` exists for all i. A fixed axis is split into its single indices for this.
3. *Commute*: if ``v|A_i`` and ``v|B_j`` exist, then ``v|A_i|(B|A_i)_j = v|B_j|(A|B_j)_i``.
4. *Propagate*: if ``w|B_j`` exists for a variable w of ``v|A_i``, and v may vary with B, then ``v|B_j`` exists.

v *may vary* with A if every observed tensor that contains v contains A exactly once, and every axis of a parameter
that contains v has A to the left of it. Only then can the axis be written as ``A_1 * v|A_1 + A_2 * v|A_2``.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.unification.constraints import always_together
from rebasin_core.specs.unification.terms import AxisTerm, Reason, Variable, atomic_variables, substitute, variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rebasin_core.specs.unification.constraints import Constraints, PartIndex
    from rebasin_core.specs.unification.terms import AxisTerms, Factor

_UNEQUAL: Final = Reason("slices", "the parts of an axis", "its parts are used differently")
_UNRESOLVED: Final = Reason("slices", "the parts of an axis", "the use of its parts was not resolved in 200 rounds")
_MAX_ROUNDS: Final = 200  # a few suffice for every network tried so far
_MAX_SPLIT: Final = 256  # longer fixed axes are not split, to keep specifications readable


@final
class RestrictionResolver:
    """Decides which restrictions are separate variables.

    Args:
        constraints: All constraints of a graph.
        parameters: The axes of all parameters and buffers, as the same tuples that were observed.
    """

    def __init__(self, constraints: Constraints, parameters: Sequence[AxisTerms]) -> None:
        self._constraints = constraints
        self._parameters = {id(terms): terms for terms in parameters}
        self._sources: dict[Variable, set[Variable]] = {}
        self._constant: set[Variable] = set()
        self._concatenated: set[tuple[Variable, Variable, int, AxisTerm]] = set()
        self._commuted: set[tuple[Variable, PartIndex, PartIndex]] = set()

    def resolve(self) -> None:
        """Apply the four rules until none applies."""
        self._unify_all()
        for _ in range(_MAX_ROUNDS):
            split = self._split_left_axes()
            if not (split or self._commute()):
                return
            self._unify_all()
        for variable in {variable for variable, _, _ in self._constraints.restrictions}:  # never seen to happen
            self.make_constant(variable, _UNRESOLVED)

    def make_constant(self, variable: Variable, reason: Reason = _UNEQUAL) -> None:
        """Unify all restrictions of a variable with it: ``v|A_i = v`` for all A and i.

        Args:
            variable: The variable v.
            reason: Reason for fixing axes without a common refinement.
        """
        restrictions = self._constraints.restrictions
        for key in [key for key in restrictions if key[0] is variable]:
            self._constraints.unify(restrictions.pop(key), (variable,), reason)
        self._constant.update(variables((variable,)))

    def _unify_all(self) -> None:
        """Apply rule 1 to all restrictions until a fixed point."""
        changed = True
        while changed:
            changed = False
            self._sources = self._sources_of_restrictions()
            for (variable, whole, index), restricted in list(self._constraints.restrictions.items()):
                changed |= self._unify_one(variable, whole, index, restricted)

    def _unify_one(self, variable: Variable, whole: Variable, index: int, restricted: AxisTerm) -> bool:
        """Apply rule 1 to ``v|A_i``, also if v or A was bound or split; return whether anything changed."""
        restrictions = self._constraints.restrictions
        if variable.binding is not None or whole.binding is not None:
            del restrictions[variable, whole, index]
            (root,) = substitute((whole,))
            if isinstance(root, Variable):  # v := t gives v|A_i = t|A_i, and A := B gives v|A_i = v|B_i
                restricted_root = self._constraints.restrict((variable,), ((root, index),))
                self._constraints.unify(restricted, restricted_root, _UNEQUAL)
            return True
        if variable.parts:
            return self._unify_concatenation(variable, whole, index, restricted)
        if not variable.fixed and self._may_vary(variable, whole):
            return False
        del restrictions[variable, whole, index]
        self._constraints.unify(restricted, (variable,), variable.fixed or _UNEQUAL)
        return True

    def _unify_concatenation(self, variable: Variable, whole: Variable, index: int, restricted: AxisTerm) -> bool:
        """Unify ``(v_1 + v_2)|A_i`` with ``v_1|A_i + v_2|A_i``; return False if this was done before."""
        key = (variable, whole, index, restricted)
        if key in self._concatenated:
            return False
        self._concatenated.add(key)
        own = Variable(variable.size)
        own.parts = tuple(self._constraints.restrict(part, ((whole, index),)) for part in variable.parts)
        self._constraints.unify(restricted, (own,), _UNEQUAL)
        return True

    def _may_vary(self, variable: Variable, whole: Variable, seen: frozenset[Variable] = frozenset()) -> bool:
        """Return whether v, and every variable of which v is a restriction, may be permuted differently in each A_i."""
        if variable in self._constant or not always_together(variable, whole):
            return False
        owned = [terms for key, terms in variable.occurrences.items() if key in self._parameters]
        if not all(_only_right_of(term, variable, whole) for terms in owned for term in terms):
            return False
        wholes = (whole, *self._sources.get(whole, ()))
        seen |= {variable}
        sources = self._sources.get(variable, set()) - seen
        return all(any(self._may_vary(source, one, seen) for one in wholes) for source in sources)

    def _sources_of_restrictions(self) -> dict[Variable, set[Variable]]:
        """Return, for each variable w, the variables v with ``v|A_i = w`` for some A and i."""
        found: dict[Variable, set[Variable]] = {}
        for (source, _, _), restricted in self._constraints.restrictions.items():
            match substitute(restricted):
                case (Variable() as variable,) if variable is not source and source.binding is None:
                    found.setdefault(variable, set()).add(source)
        return found

    def _split_left_axes(self) -> bool:
        """Apply rule 2 to all axes of parameters; return whether any restriction is new."""
        pairs: set[tuple[Variable, Variable]] = set()
        for terms in self._parameters.values():
            for term in terms:
                pairs.update(_pairs(term))
        changed = False
        for left, right in sorted(pairs, key=_age):
            changed |= self._split_left(left, right)
        return changed

    def _split_left(self, left: Variable, right: Variable) -> bool:
        """Apply rule 2 to two factors of an axis: a left concatenation or fixed axis, and a free right factor."""
        if left.binding is not None or right.binding is not None or not right.is_free or left.size > _MAX_SPLIT:
            return False
        if not (left.parts or left.fixed) or not self._may_vary(right, left):
            return False
        if not left.parts and left.fixed:
            self._constraints.split((left,), [1] * left.size, left.fixed)
        restrictions = self._constraints.restrictions
        missing = [index for index in range(len(left.parts)) if (right, left, index) not in restrictions]
        for index in missing:
            self._constraints.restrict((right,), ((left, index),))
        return bool(missing)

    def _commute(self) -> bool:
        """Apply rules 4 and 3 to all restrictions; return whether anything changed."""
        parts: dict[Variable, list[PartIndex]] = {}
        for variable, whole, index in self._constraints.restrictions:
            if not variable.parts:
                parts.setdefault(variable, []).append((whole, index))
        changed = self._propagate(parts)
        for variable, own in parts.items():
            for first, second in combinations(own, 2):
                key = (variable, first, second)
                if first[0] is second[0] or key in self._commuted:
                    continue
                self._commuted.add(key)
                one = self._restrict_twice(variable, first, second)
                other = self._restrict_twice(variable, second, first)
                self._constraints.unify(one, other, _UNEQUAL)
                changed = True
        return changed

    def _restrict_twice(self, variable: Variable, first: PartIndex, second: PartIndex) -> AxisTerm:
        """Return ``v|A_i|C_j`` with ``C = B|A_i``, for ``first = (A, i)`` and ``second = (B, j)``."""
        (whole,) = substitute(self._constraints.restrict((second[0],), (first,)))
        restricted = self._constraints.restrict((variable,), (first,))
        if not isinstance(whole, Variable):
            return restricted
        return self._constraints.restrict(restricted, ((whole, second[1]),))

    def _propagate(self, parts: Mapping[Variable, Sequence[PartIndex]]) -> bool:
        """Apply rule 4, for each w in ``v|A_i`` with a restriction ``w|B_j``; return whether any restriction is new."""
        restrictions = self._constraints.restrictions
        changed = False
        for (variable, whole, _), restricted in list(restrictions.items()):
            if variable.parts:
                continue
            for inner in atomic_variables(restricted):
                for other, index in parts.get(inner, ()):
                    for one in (other, *self._sources.get(other, ())):
                        is_new = one is not whole and (variable, one, index) not in restrictions
                        if is_new and self._may_vary(variable, one):
                            self._constraints.restrict((variable,), ((one, index),))
                            changed = True
        return changed


def _age(pair: tuple[Variable, Variable]) -> tuple[int, int]:
    return pair[0].number, pair[1].number


def _pairs(term: AxisTerm) -> Iterator[tuple[Variable, Variable]]:
    """Yield each pair of a factor and an atomic variable to the right of it."""
    factors = substitute(term)
    for index, left in enumerate(factors):
        if not isinstance(left, Variable):
            continue
        for right in atomic_variables(factors[index + 1 :]):
            yield left, right
        for part in left.parts:
            yield from _pairs(part)


def _only_right_of(term: AxisTerm, variable: Variable, whole: Variable) -> bool:
    """Return whether v occurs in an axis only to the right of A, or of a concatenation with A in a part."""
    for factor in substitute(term):
        if factor is whole:
            return True
        inside = all(_only_right_of(part, variable, whole) for part in _parts(factor))
        if any(found is whole for found in variables((factor,))):
            return inside
        if factor is variable or not inside:
            return False
    return True


def _parts(factor: Factor) -> tuple[AxisTerm, ...]:
    return factor.parts if isinstance(factor, Variable) else ()
