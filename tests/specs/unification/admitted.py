"""The permutations that a term admits, by enumeration: the meaning of terms, for tests."""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

from rebasin_core.specs.unification.terms import Reason, Variable, atomic_variables, substitute

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.terms import AxisTerm

WHY = Reason("test", "here", "because")


def is_free(term: AxisTerm) -> bool:
    return not any(variable.fixed for variable in atomic_variables(term))


def admitted(term: AxisTerm, constraints: Constraints) -> set[tuple[int, ...]]:
    """Return the permutations of an axis: one for each choice of a permutation for every variable in it."""
    variables = list(dict.fromkeys(_variables(term, constraints)))
    choices = [[tuple(range(v.size))] if v.fixed else list(permutations(range(v.size))) for v in variables]
    return {_permuted(term, constraints, dict(zip(variables, chosen, strict=True))) for chosen in product(*choices)}


def _variables(term: AxisTerm, constraints: Constraints) -> Iterator[Variable]:
    first, rest = _first_and_rest(term)
    if first is None:
        return
    if first.parts:
        for inner in _parts(first, rest, constraints):
            yield from _variables(inner, constraints)
    else:
        yield first
        yield from _variables(rest, constraints)


def _permuted(term: AxisTerm, constraints: Constraints, chosen: Mapping[Variable, tuple[int, ...]]) -> tuple[int, ...]:
    first, rest = _first_and_rest(term)
    if first is None:
        return (0,)
    if first.parts:
        found: list[int] = []
        for inner in _parts(first, rest, constraints):
            start = len(found)
            found += [start + index for index in _permuted(inner, constraints, chosen)]
        return tuple(found)
    inside = _permuted(rest, constraints, chosen)
    return tuple(outer * len(inside) + index for outer in chosen[first] for index in inside)


def _first_and_rest(term: AxisTerm) -> tuple[Variable | None, AxisTerm]:
    factors = substitute(term)
    if not factors:
        return None, ()
    assert isinstance(factors[0], Variable)
    return factors[0], factors[1:]


def _parts(first: Variable, rest: AxisTerm, constraints: Constraints) -> list[AxisTerm]:
    """Return A_i*v|A_i for every part of A."""
    return [(*part, *constraints.restriction_of(rest, first, index)) for index, part in enumerate(first.parts)]
