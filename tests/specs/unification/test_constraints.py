"""The constraints between axes, one at a time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeAlias

import pytest

from rebasin_core.errors import SpecError
from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.terms import (
    Variable,
    atomic_variables,
    concatenation,
    fresh,
    has_uniform,
    length,
    substitute,
    uniform,
)
from tests.specs.unification.admitted import WHY, admitted, is_free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.unification.terms import AxisTerm

Shape: TypeAlias = "Sequence[int | tuple[int, ...]]"
"""A product; a tuple among its factors is a concatenation."""


def built(shape: Shape) -> AxisTerm:
    parts = [fresh(item) if isinstance(item, int) else concatenation([fresh(size) for size in item]) for item in shape]
    return tuple(factor for part in parts for factor in part)


def random_shape(draw: random.Random, size: int) -> Shape:
    factors: list[int | tuple[int, ...]] = []
    while size > 1:
        factor = draw.choice([divisor for divisor in range(2, size + 1) if size % divisor == 0])
        start = draw.randrange(factor)
        factors.append((start, factor - start) if start else factor)
        size //= factor
    return tuple(factors)


def unified_and_intersection(first: Shape, second: Shape) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Return the permutations that two axes admit once they are unified, and those that both admitted before."""
    constraints, x, y = Constraints(), built(first), built(second)
    for variable in atomic_variables((*x, *y)):
        constraints.observe(((variable,),))  # excludes different permutations in each unit of another
    both = admitted(x, constraints) & admitted(y, constraints)
    unified = admitted(constraints.unify(x, y, WHY), constraints)
    assert unified == admitted(x, constraints) == admitted(y, constraints)
    return unified, both


def test_unified_axes_are_one() -> None:
    constraints, a, b, c = Constraints(), fresh(6), fresh(6), fresh(6)
    constraints.unify(b, c, WHY)
    constraints.unify(c, a, WHY)
    assert substitute(a) == substitute(b) == substitute(c) == a  # the oldest variable represents the class
    constraints.freeze(c, WHY)
    assert not is_free(b)


def test_axes_of_different_lengths_are_not_unified() -> None:
    with pytest.raises(SpecError, match="expected two axes of equal length, got 6 and 5"):
        Constraints().unify(fresh(6), fresh(5), WHY)


@pytest.mark.parametrize(
    ("first", "second", "exact"),
    [
        ((8,), (2, 4), True),
        ((2, 4), (4, 2), True),
        ((2, 4), (2, 2, 2), True),
        ((2, 6), (4, 3), True),
        ((4, 3), (3, 4), False),
        ((2, 6), (3, 4), False),
        (((2, 6),), ((5, 3),), True),
        (((3, 5),), (8,), True),
        (((4, 4),), (2, 4), True),
        ((2, (1, 3)), (2, (2, 2)), True),
        ((2, (2, 2)), ((4, 4),), True),
        (((3, 5),), (2, 4), True),
    ],
)
def test_unified_axes_admit_the_permutations_that_both_admitted(first: Shape, second: Shape, *, exact: bool) -> None:
    unified, both = unified_and_intersection(first, second)
    assert unified <= both
    assert (unified == both) == exact


@pytest.mark.parametrize("size", [6, 8])
def test_unified_random_axes_admit_no_other_permutations(size: int) -> None:
    draw = random.Random(size)
    for _ in range(40):
        unified, both = unified_and_intersection(random_shape(draw, size), random_shape(draw, size))
        assert unified <= both


def test_a_variable_that_occurs_twice_is_permuted_twice() -> None:
    constraints, x, y, whole = Constraints(), fresh(2), fresh(4), fresh(8)
    constraints.unify(whole, (*x, *y), WHY)
    constraints.unify(y, (*x, *x), WHY)
    assert substitute(whole) == (*x, *x, *x)
    assert len(admitted(whole, constraints)) == 2


def test_an_axis_gets_the_structure_of_the_other() -> None:
    constraints, whole, outer, inner = Constraints(), fresh(12), fresh(3), fresh(4)
    constraints.unify(whole, (*outer, *inner), WHY)
    assert substitute(whole) == (*outer, *inner)
    constraints.freeze(inner, WHY)
    assert is_free(outer)
    assert not is_free(whole)


def test_products_without_a_common_refinement_are_fixed() -> None:
    constraints, left, right = Constraints(), (*fresh(4), *fresh(6)), (*fresh(6), *fresh(4))
    constraints.unify(left, right, WHY)
    assert not is_free(left)
    assert not is_free(right)
    assert all(variable.fixed == WHY for variable in atomic_variables(left))


def test_products_with_common_divisors_are_refined() -> None:
    constraints, left, right = Constraints(), (*fresh(4), *fresh(6)), (*fresh(2), *fresh(12))
    constraints.unify(left, right, WHY)
    sizes = [[factor.size for factor in substitute(term)] for term in (left, right)]
    assert sizes == [[2, 2, 6], [2, 2, 6]]
    assert is_free(left)


def test_uniform_axes_impose_no_constraint() -> None:
    constraints, a, b = Constraints(), fresh(6), fresh(6)
    assert constraints.unify(a, uniform(6), WHY) == a
    assert constraints.unify(uniform(6), b, WHY) == b
    assert substitute(a) != substitute(b)
    assert not has_uniform(constraints.freeze(uniform(6), WHY))


def test_a_padded_axis_only_constrains_the_part_that_is_not_uniform() -> None:
    constraints, channels, whole = Constraints(), fresh(4), fresh(6)
    unified = constraints.unify(concatenation([channels, uniform(2)]), whole, WHY)
    (variable,) = unified
    assert isinstance(variable, Variable)
    assert [substitute(part) for part in variable.parts] == [channels, variable.parts[1]]
    assert is_free(variable.parts[1])


def test_concatenations_are_refined_to_common_parts() -> None:
    constraints, first, second = Constraints(), (fresh(2), fresh(6)), (fresh(5), fresh(3))
    constraints.unify(concatenation(first), concatenation(second), WHY)
    assert [variable.size for variable in atomic_variables(first[1])] == [3, 3]
    assert [variable.size for variable in atomic_variables(second[0])] == [2, 3]
    assert is_free(first[1])


def test_splitting_a_product_splits_its_first_factor() -> None:
    constraints, outer, inner = Constraints(), fresh(4), fresh(5)
    parts = constraints.split((*outer, *inner), [5, 15], WHY)
    assert [length(part.term) for part in parts] == [5, 15]
    assert [variable.size for variable in atomic_variables(outer)] == [3]
    assert [part.path for part in parts] == [((outer[0], 0),), ((outer[0], 1),)]


def test_splitting_inside_a_unit_splits_the_rest_in_that_unit_only() -> None:
    constraints, outer, inner = Constraints(), fresh(3), fresh(4)
    parts = constraints.split((*outer, *inner), [6, 6], WHY)
    assert [length(part.term) for part in parts] == [6, 6]
    assert is_free(inner)


def test_splitting_twice_refines_the_parts() -> None:
    constraints, axis = Constraints(), fresh(8)
    first = constraints.split(axis, [3, 5], WHY)
    second = constraints.split(axis, [4, 4], WHY)
    assert [variable.size for variable in atomic_variables(axis)] == [3, 4]  # 3 + 1 + 4: one unit is fixed
    assert [length(part.term) for part in (*first, *second)] == [3, 5, 4, 4]
    assert len(admitted(axis, constraints)) == 6 * 24


def test_a_restriction_is_a_separate_axis_until_the_axis_is_observed_alone() -> None:
    constraints, units, width = Constraints(), fresh(3), fresh(4)
    constraints.observe((units, width))
    one, rest = constraints.split(units, [1, 2], WHY)
    assert constraints.restrict(width, one.path) != width
    assert constraints.restrict(width, one.path) != constraints.restrict(width, rest.path)
    assert constraints.restrict(width, one.path) == constraints.restrict(width, one.path)
    other = fresh(4)
    constraints.observe((units, other))
    constraints.observe((other,))
    assert constraints.restrict(other, one.path) == other


def test_fixed_uniform_and_concatenated_axes_are_restricted_part_by_part() -> None:
    constraints, units, fixed, free = Constraints(), fresh(3), fresh(2, WHY), fresh(4)
    (part, _) = constraints.split(units, [1, 2], WHY)
    whole = concatenation([fixed, free])
    constraints.observe((units, whole))
    assert constraints.restrict(fixed, part.path) == fixed
    assert constraints.restrict(uniform(5), part.path) == uniform(5)
    (restricted,) = constraints.restrict(whole, part.path)
    assert isinstance(restricted, Variable)
    assert restricted.parts == (fixed, constraints.restrict(free, part.path))
