"""Axes of reshaped and stacked tensors."""

from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.reshaping import reshape, stack
from rebasin_core.specs.unification.terms import Variable, concatenation, fresh, length, substitute, uniform
from tests.specs.unification.admitted import WHY, is_free


def test_a_dimension_is_divided_and_flattened_again() -> None:
    constraints, a, b = Constraints(), fresh(6), fresh(4)
    outer, inner, last = reshape(constraints, [a, b], [2, 3, 4], WHY)
    assert substitute(a) == (*outer, *inner)
    assert last == b
    assert reshape(constraints, [outer, inner, last], [24], WHY) == [(*substitute(a), *b)]
    assert reshape(constraints, [a, b], [6, 1, 2, 2], WHY)[:2] == [substitute(a), ()]


def test_dimensions_without_a_common_refinement_are_fixed() -> None:
    constraints, before, c, d, after = Constraints(), fresh(5), fresh(6), fresh(4), fresh(7)
    terms = reshape(constraints, [before, c, d, after], [5, 4, 6, 7], WHY)
    assert [length(term) for term in terms] == [5, 4, 6, 7]
    assert [is_free(term) for term in terms] == [True, False, False, True]
    assert not is_free(c)
    assert not is_free(d)


def test_a_concatenation_of_equal_parts_is_a_product() -> None:
    constraints, parts = Constraints(), (fresh(4), fresh(4))
    outer, inner = reshape(constraints, [concatenation(parts)], [2, 4], WHY)
    assert length(outer) == 2
    assert length(inner) == 4
    assert all(is_free(part) for part in parts)


def test_a_uniform_dimension_is_divided_without_constraints() -> None:
    assert reshape(Constraints(), [uniform(6)], [2, 3], WHY) == [uniform(2), uniform(3)]


def test_stacked_axes_are_the_restrictions_of_the_old_dimension() -> None:
    constraints, a, b = Constraints(), fresh(4), fresh(4)
    (new,), (old,) = stack(constraints, [a, b], WHY)
    assert isinstance(new, Variable)
    assert [constraints.restrict((old,), ((new, index),)) for index in range(2)] == [a, b]
    assert substitute(a) != substitute(b)


def test_equal_and_uniform_axes_are_stacked_as_one() -> None:
    constraints, a = Constraints(), fresh(4)
    assert stack(constraints, [a, a], WHY)[1] == a
    assert stack(constraints, [uniform(4), a], WHY)[1] == a
    assert stack(constraints, [a], WHY) == ((), a)
