"""From the constraints of small graphs to groups and axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.reshaping import reshape
from rebasin_core.specs.unification.solution import solve_constraints
from rebasin_core.specs.unification.terms import Reason, Variable, fresh
from tests.specs.unification.admitted import WHY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.unification.terms import AxisTerms


def observed(tensors: Mapping[str, AxisTerms]) -> Constraints:
    constraints = Constraints()
    for terms in tensors.values():
        constraints.observe(terms)
    return constraints


def axes(constraints: Constraints, tensors: Mapping[str, AxisTerms], buffers: frozenset[str] = frozenset()) -> str:
    solution = solve_constraints(constraints, tensors, parameters=tensors.keys() - buffers)
    return "; ".join(solution.layout.as_json()["axes"].values())


def test_the_hidden_units_of_two_dense_layers_are_a_group() -> None:
    tensors = {"first.weight": (fresh(5), fresh(3)), "last.weight": (fresh(2), fresh(5))}
    constraints = observed(tensors)
    constraints.freeze(tensors["first.weight"][1], WHY)
    constraints.unify(tensors["first.weight"][0], tensors["last.weight"][1], WHY)
    constraints.freeze(tensors["last.weight"][0], WHY)
    assert axes(constraints, tensors) == "first, 3; 2, first"


def test_reasons_name_the_fixed_dimensions_and_parts() -> None:
    tensors = {"weight": (fresh(6), fresh(3, WHY))}
    constraints = observed(tensors)
    _, second = constraints.split(tensors["weight"][0], [4, 2], WHY)
    because = Reason("test", "there", "why not")
    constraints.freeze(second.term, because)
    solution = solve_constraints(constraints, tensors, parameters=tensors)
    assert solution.reasons == {"weight": ((because,), (WHY,))}


def test_an_axis_that_occurs_in_buffers_only_is_fixed() -> None:
    tensors = {"weight": (fresh(4),), "mask": (fresh(3),)}
    assert axes(observed(tensors), tensors, frozenset({"mask"})) == "weight; 3"


def test_a_width_inside_heads_is_nested_and_an_inseparable_product_is_merged() -> None:
    tensors = {"weight": (fresh(12), fresh(3, WHY))}
    constraints = observed(tensors)
    heads, width = reshape(constraints, [tensors["weight"][0]], [4, 3], WHY)
    assert axes(constraints, tensors) == "weight, 3"  # heads and width are inseparable: 12! permutations
    constraints.observe((heads,))  # as a sum over the width does
    constraints.observe((heads, width))
    assert axes(constraints, tensors) == "weight*weight.inner@weight, 3"


def test_a_restriction_is_written_as_a_concatenation_of_products() -> None:
    tensors = {"weight": ((*fresh(4), *fresh(3)),)}
    whole, width = tensors["weight"][0][:1], tensors["weight"][0][1:]
    constraints = observed(tensors)
    first, second = constraints.split(whole, [2, 2], WHY)
    constraints.freeze(constraints.restrict(width, first.path), WHY)
    constraints.observe((second.term,))
    assert axes(constraints, tensors) == "weight*3 + weight.2*weight.inner@weight.2"


def test_an_axis_that_occurs_without_the_concatenation_is_the_same_in_all_its_parts() -> None:
    whole, width = Variable(4), Variable(3)
    tensors = {"weight": ((whole,), (width,)), "bias": ((width,),)}
    constraints = observed(tensors)
    first, second = constraints.split((whole,), [2, 2], WHY)
    constraints.freeze(constraints.restrict((width,), first.path), WHY)
    assert constraints.restrict((width,), second.path) == (width,)
    assert axes(constraints, tensors) == "weight + weight.2, 3; 3"
