"""Induced axes: constraining them fixes the axis that induces them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.induced import InducedAxis
from rebasin_core.specs.unification.solution import resolve_induced
from rebasin_core.specs.unification.terms import AxisTerm, Variable, fresh
from tests.specs.unification.admitted import WHY, is_free

if TYPE_CHECKING:
    from collections.abc import Callable


def _induced(constraints: Constraints, source: AxisTerm, size: int = 6, rows: tuple[AxisTerm, ...] = ()) -> AxisTerm:
    term = fresh(size)
    (variable,) = term
    assert isinstance(variable, Variable)
    constraints.induced[variable] = InducedAxis(variable, source, rows, object())
    return term


CONSTRAINTS: list[Callable[[Constraints, AxisTerm], object]] = [
    lambda constraints, term: constraints.freeze(term, WHY),
    lambda constraints, term: constraints.split(term, [2, 4], WHY),
    lambda constraints, term: constraints.unify(term, (*fresh(2), *fresh(3)), WHY),
    lambda constraints, term: constraints.unify(term, _induced(constraints, fresh(4)), WHY),
]


@pytest.mark.parametrize("constrain", CONSTRAINTS)
def test_constraining_an_induced_axis_fixes_its_source(constrain: Callable[[Constraints, AxisTerm], object]) -> None:
    constraints, source = Constraints(), fresh(4)
    term = _induced(constraints, source)
    constrain(constraints, term)
    resolve_induced(constraints, ())
    assert not is_free(source)
    assert not is_free(term)


@pytest.mark.parametrize("parameter_first", [True, False])
@pytest.mark.parametrize("part", [True, False])
def test_unifying_an_induced_axis_with_a_parameter_fixes_both(*, parameter_first: bool, part: bool) -> None:
    constraints, source = Constraints(), fresh(4)
    older = fresh(6)
    term = _induced(constraints, source)
    owned = older if parameter_first else fresh(6)
    if part:
        owned = fresh(9)
    own = constraints.split(owned, [6, 3], WHY)[0].term if part else owned
    constraints.unify(*((own, term) if parameter_first else (term, own)), WHY)
    resolve_induced(constraints, [(owned,)])
    assert not is_free(source)
    assert not is_free(own)


def test_an_induced_axis_may_be_unified_with_the_axis_of_a_result() -> None:
    constraints, source = Constraints(), fresh(4)
    constraints.unify(_induced(constraints, source), fresh(6), WHY)
    resolve_induced(constraints, ())
    assert is_free(source)


def test_an_unconstrained_induced_axis_leaves_its_source_free() -> None:
    constraints, source = Constraints(), fresh(4)
    term = _induced(constraints, source)
    constraints.observe((term, fresh(3)))
    constraints.unify(term, term, WHY)
    resolve_induced(constraints, ())
    assert is_free(source)


def test_an_order_that_differs_between_rows_must_occur_with_its_rows() -> None:
    for rows_kept in (True, False):
        constraints, source, rows = Constraints(), fresh(4), fresh(5)
        term = _induced(constraints, source, rows=(rows,))
        constraints.observe((rows, term) if rows_kept else (term, fresh(3)))
        resolve_induced(constraints, ())
        assert is_free(source) is rows_kept


def test_fixing_one_source_may_fix_another() -> None:
    constraints, source = Constraints(), fresh(4)
    middle = _induced(constraints, source)
    last = _induced(constraints, middle)
    constraints.freeze(last, WHY)
    resolve_induced(constraints, ())
    assert not is_free(middle)
    assert not is_free(source)
