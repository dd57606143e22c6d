"""Nesting: free variables that may be permuted differently in each unit of another variable.

A *cell* of a tensor is the product of its axes with one part selected from every concatenation. If w occurs
exactly once in every cell that contains v, then v may be permuted differently in each unit of w: the group of v is
nested in that of w, as the width of an attention head is nested in the heads.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast, final

from rebasin_core.specs.unification.terms import Variable, atomic_variables, substitute, variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.terms import AxisTerm, Factor


@final
class CoOccurrence:
    """Co-occurrence of free variables in the cells of all observed tensors.

    Args:
        constraints: Constraints whose restrictions are resolved.
    """

    def __init__(self, constraints: Constraints) -> None:
        self._always: dict[Variable, set[Variable]] = {}
        seen: set[tuple[Variable, ...]] = set()
        for terms in dict.fromkeys(tuple(map(substitute, terms)) for terms in constraints.tensors):
            for cell in cells(constraints, terms):
                free = tuple(factor for factor in cell if isinstance(factor, Variable) and factor.is_free)
                if free not in seen:
                    seen.add(free)
                    self._add(free)

    def _add(self, free: Sequence[Variable]) -> None:
        counts = Counter(free)
        once = {variable for variable, count in counts.items() if count == 1}
        for variable in counts:
            others = once - {variable}
            self._always[variable] = self._always.get(variable, others) & others

    def always_with(self, variable: Variable) -> set[Variable]:
        """Return the variables that occur exactly once in every cell that contains a variable.

        Args:
            variable: A free variable.

        Returns:
            Free variables.
        """
        return self._always.get(variable, set())

    def inseparable(self, first: Variable, second: Variable) -> bool:
        """Return whether two variables occur in the same cells, exactly once in each.

        Args:
            first: A free variable.
            second: Another free variable.

        Returns:
            Whether no cell contains one without the other.
        """
        return second in self.always_with(first) and first in self.always_with(second)


def _is_not_fixed(variable: Variable) -> bool:
    return not variable.fixed


def outer_variables(co_occurrence: CoOccurrence, order: Sequence[Variable]) -> dict[Variable, Variable | None]:
    """Return the variable in which each free variable is nested.

    Nested groups form chains. Among several possible outer variables, the chain with the largest number of independent
    permutations (the product of its sizes) is selected.

    Args:
        co_occurrence: Co-occurrence of the variables.
        order: All free variables of parameters and buffers; of two inseparable variables, the first is the outer one.

    Returns:
        The outer variable of each variable, or None.
    """
    ranks = {variable: rank for rank, variable in enumerate(order)}
    candidates = {
        variable: [
            other
            for other in co_occurrence.always_with(variable)
            if other in ranks and (ranks[other] < ranks[variable] or not co_occurrence.inseparable(variable, other))
        ]
        for variable in order
    }
    found: dict[Variable, Variable | None] = {}
    copies: dict[Variable, int] = {}
    for variable in sorted(order, key=lambda variable: (len(candidates[variable]), ranks[variable])):
        processed = [other for other in candidates[variable] if other in copies]
        outer = max(processed, key=lambda other: (copies[other], -ranks[other]), default=None)
        found[variable] = outer
        copies[variable] = variable.size * (1 if outer is None else copies[outer])
    return found


def cells(
    constraints: Constraints, terms: Sequence[AxisTerm], is_divided: Callable[[Variable], bool] = _is_not_fixed
) -> Iterator[AxisTerm]:
    """Yield the factors of each cell of a tensor.

    Args:
        constraints: Constraints whose restrictions are resolved.
        terms: The axes of the tensor.
        is_divided: Function of an atomic variable: whether concatenations that contain it are divided into parts.

    Yields:
        Variables and uniform factors. A concatenation is kept whole if no variable for which ``is_divided`` is true
        depends on its parts.
    """
    factors = [factor for term in terms for factor in substitute(term)]
    indices = (index for index, factor in enumerate(factors) if _has_cells(constraints, factor, factors, is_divided))
    index = next(indices, None)
    if index is None:
        yield tuple(factors)
        return
    whole = cast("Variable", factors[index])
    for number, part in enumerate(whole.parts):
        before = constraints.restriction_of(tuple(factors[:index]), whole, number)
        after = constraints.restriction_of(tuple(factors[index + 1 :]), whole, number)
        yield from cells(constraints, [before, part, after], is_divided)


def _has_cells(
    constraints: Constraints, factor: Factor, factors: Sequence[Factor], is_divided: Callable[[Variable], bool]
) -> bool:
    """Return whether a factor is a concatenation to divide, or one to which another factor is restricted."""
    if not isinstance(factor, Variable) or not factor.parts:
        return False
    if any(map(is_divided, atomic_variables((factor,)))):
        return True
    others = variables(tuple(other for other in factors if other is not factor))
    indices = range(len(factor.parts))
    return any((other, factor, index) in constraints.restrictions for other in others for index in indices)
