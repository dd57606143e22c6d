"""Co-occurrence and nesting of free variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.nesting import CoOccurrence, cells, outer_variables
from rebasin_core.specs.unification.terms import Variable, concatenation, fresh, uniform
from tests.specs.unification.admitted import WHY

if TYPE_CHECKING:
    from rebasin_core.specs.unification.terms import AxisTerms


def co_occurrence(*tensors: AxisTerms) -> CoOccurrence:
    constraints = Constraints()
    for terms in tensors:
        constraints.observe(terms)
    return CoOccurrence(constraints)


def test_a_cell_has_one_part_of_every_concatenation() -> None:
    a, b, c = Variable(2), Variable(3), Variable(4)
    whole = concatenation([(a,), (b,)])
    assert list(cells(Constraints(), [whole, (c,), uniform(2)])) == [(a, c, *uniform(2)), (b, c, *uniform(2))]


def test_a_cell_has_the_restrictions_to_its_parts() -> None:
    constraints, units, width = Constraints(), fresh(4), fresh(3)
    constraints.observe((units, width))
    first, second = constraints.split(units, [2, 2], WHY)
    one, other = constraints.restrict(width, first.path), constraints.restrict(width, second.path)
    assert list(cells(constraints, [units, width])) == [(*first.term, *one), (*second.term, *other)]


def test_fixed_concatenations_have_no_cells() -> None:
    a, (whole,) = Variable(2), concatenation([fresh(2, WHY), fresh(3, WHY)])
    assert list(cells(Constraints(), [(whole,), (a,)])) == [(whole, a)]


def test_an_axis_that_is_observed_alone_is_separable() -> None:
    a, b = Variable(2), Variable(3)
    together = co_occurrence(((a,), (b,)))
    assert together.inseparable(a, b)
    apart = co_occurrence(((a,), (b,)), ((a,),))
    assert apart.always_with(b) == {a}
    assert apart.always_with(a) == set()
    assert not apart.inseparable(a, b)


def test_an_axis_that_occurs_twice_has_no_axis_nested_in_it() -> None:
    a, b = Variable(2), Variable(3)
    twice = co_occurrence(((a,), (a,), (b,)))
    assert twice.always_with(b) == set()
    assert twice.always_with(a) == {b}


def test_fixed_axes_are_ignored() -> None:
    a, b = Variable(2), Variable(3, WHY)
    assert co_occurrence(((a,), (b,))).always_with(a) == set()


def test_widths_are_nested_in_heads_and_not_vice_versa() -> None:
    heads, width = Variable(4), Variable(3)
    found = outer_variables(co_occurrence(((heads,), (width,)), ((heads,),)), [width, heads])
    assert found == {width: heads, heads: None}


def test_of_inseparable_axes_the_first_is_the_outer_one() -> None:
    a, b = Variable(2), Variable(3)
    together = co_occurrence(((a,), (b,)))
    assert outer_variables(together, [a, b]) == {a: None, b: a}
    assert outer_variables(together, [b, a]) == {b: None, a: b}


def test_axes_are_nested_in_the_longest_chain_of_outer_ones() -> None:
    a, b, c, inner = Variable(5), Variable(2), Variable(3), Variable(4)
    tensors: list[AxisTerms] = [((a,),), ((b,), (c,)), ((b,),), ((a,), (b,), (c,), (inner,))]
    assert outer_variables(co_occurrence(*tensors), [a, b, c, inner]) == {a: None, b: None, c: b, inner: c}
