"""Restrictions of axes to parts of a concatenation, once the graph has been traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.reshaping import stack
from rebasin_core.specs.unification.restriction import RestrictionResolver
from rebasin_core.specs.unification.terms import Variable, atomic_variables, fresh, substitute
from tests.specs.unification.admitted import WHY

if TYPE_CHECKING:
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms


def observed(*terms: AxisTerm) -> tuple[Constraints, AxisTerms]:
    constraints = Constraints()
    constraints.observe(terms)
    return constraints, terms


def test_a_restriction_right_of_the_concatenation_is_a_separate_axis() -> None:
    whole, width = fresh(4), fresh(3)
    constraints, parameter = observed((*whole, *width))
    first, second = constraints.split(whole, [2, 2], WHY)
    RestrictionResolver(constraints, [parameter]).resolve()
    assert substitute(constraints.restrict(width, first.path)) != substitute(constraints.restrict(width, second.path))


def test_a_restriction_in_another_dimension_is_the_axis_itself() -> None:
    whole, width = fresh(4), fresh(3)
    constraints, parameter = observed(whole, width)
    first, second = constraints.split(whole, [2, 2], WHY)
    one, other = constraints.restrict(width, first.path), constraints.restrict(width, second.path)
    assert one != other
    RestrictionResolver(constraints, [parameter]).resolve()
    assert substitute(one) == substitute(other) == substitute(width)
    assert not constraints.restrictions


def test_a_variable_that_is_fixed_later_fixes_its_restrictions() -> None:
    whole, width = fresh(4), fresh(3)
    constraints, parameter = observed((*whole, *width))
    first, _ = constraints.split(whole, [2, 2], WHY)
    one = constraints.restrict(width, first.path)
    constraints.freeze(width, WHY)
    RestrictionResolver(constraints, [parameter]).resolve()
    assert substitute(one) == width


def test_a_variable_that_is_bound_later_binds_its_restrictions() -> None:
    whole, width = fresh(4), fresh(6)
    constraints, parameter = observed((*whole, *width))
    first, second = constraints.split(whole, [2, 2], WHY)
    one = constraints.restrict(width, first.path)
    outer, inner = fresh(2), fresh(3)
    constraints.unify(width, (*outer, *inner), WHY)
    RestrictionResolver(constraints, [parameter]).resolve()
    assert substitute(one) == substitute(constraints.restrict((*outer, *inner), first.path))
    assert substitute(one) != substitute(constraints.restrict(width, second.path))


def test_fixed_axes_left_of_a_free_one_are_split_into_single_indices() -> None:
    fixed, width = fresh(3, WHY), fresh(2)
    constraints, parameter = observed((*fixed, *width))
    RestrictionResolver(constraints, [parameter]).resolve()
    restrictions = {index: term for (_, _, index), term in constraints.restrictions.items()}
    assert set(restrictions) == {0, 1, 2}
    assert len({substitute(term) for term in restrictions.values()}) == 3


def test_restrictions_to_two_concatenations_commute() -> None:
    first, second, width = fresh(4), fresh(6), fresh(3)
    constraints, parameter = observed((*first, *second, *width))
    (a, _), (b, _) = constraints.split(first, [2, 2], WHY), constraints.split(second, [3, 3], WHY)
    constraints.restrict(width, a.path)
    constraints.restrict(width, b.path)
    RestrictionResolver(constraints, [parameter]).resolve()
    (inner,) = substitute(constraints.restrict(second, a.path))
    (outer,) = substitute(constraints.restrict(first, b.path))
    assert isinstance(inner, Variable)
    assert isinstance(outer, Variable)
    one = constraints.restrict(constraints.restrict(width, a.path), ((inner, 0),))
    other = constraints.restrict(constraints.restrict(width, b.path), ((outer, 0),))
    assert substitute(one) == substitute(other) != substitute(width)


def test_a_restriction_of_a_restriction_is_propagated_to_the_axis() -> None:
    whole, a, b = fresh(4), fresh(3), fresh(3)
    constraints, parameter = observed((*whole, *a))
    other: AxisTerms = ((*whole, *b),)
    constraints.observe(other)
    first, second = constraints.split(whole, [2, 2], WHY)
    one = constraints.restrict(a, first.path)
    (new,), old = stack(constraints, [a, b], WHY)
    constraints.observe(((new,), whole, old))  # the stacked axis is in no parameter
    RestrictionResolver(constraints, [parameter, other]).resolve()
    assert (old[0], *first.path[0]) in constraints.restrictions
    assert isinstance(new, Variable)
    inner = constraints.restrict(constraints.restrict(old, first.path), ((new, 0),))
    assert substitute(inner) == substitute(one) != substitute(constraints.restrict(a, second.path))


def test_a_variable_that_is_split_later_splits_its_restrictions() -> None:
    whole, width = fresh(4), fresh(5)
    constraints, parameter = observed((*whole, *width))
    first, _ = constraints.split(whole, [2, 2], WHY)
    one = constraints.restrict(width, first.path)
    left, right = constraints.split(width, [2, 3], WHY)
    RestrictionResolver(constraints, [parameter]).resolve()
    parts = [constraints.restrict(part.term, first.path) for part in (left, right)]
    assert list(atomic_variables(one)) == [variable for part in parts for variable in substitute(part)]
    assert substitute(parts[0]) != substitute(left.term)


def test_an_axis_that_is_made_constant_is_its_restrictions() -> None:
    whole, width = fresh(4), fresh(3)
    constraints, parameter = observed((*whole, *width))
    first, second = constraints.split(whole, [2, 2], WHY)
    one, other = constraints.restrict(width, first.path), constraints.restrict(width, second.path)
    resolver = RestrictionResolver(constraints, [parameter])
    resolver.resolve()
    (variable,) = width
    assert isinstance(variable, Variable)
    resolver.make_constant(variable)
    resolver.resolve()
    assert substitute(one) == substitute(other) == substitute(width)
