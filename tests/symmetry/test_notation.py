from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, concat, product
from rebasin_core.symmetry.notation import format_axes, parse_axes
from rebasin_core.symmetry.resolve import resolve

GROUPS = {"a": Group("a", 2), "b": Group("b", 3), "h": Group("h", 2), "w": Group("w", 2, "h")}
ATOMS = st.one_of(
    st.sampled_from([Atom(group.size, name) for name, group in GROUPS.items()]), st.integers(1, 4).map(Atom)
)
AXES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: product(*parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: concat(*parts)),
    ),
    max_leaves=8,
)


@given(st.lists(AXES, max_size=3))
def test_formatted_axes_are_parsed_back(axes: list[Axis]) -> None:
    text = format_axes(tuple(axes), GROUPS)
    assert tuple(resolve(e, GROUPS, "test") for e in parse_axes(text)) == tuple(axes)


@given(AXES)
def test_sizes_follow_the_algebra(axis: Axis) -> None:
    match axis:
        case Product(factors):
            size = 1
            for factor in factors:
                size *= factor.size
            assert axis.size == size
        case Concat(parts):
            assert axis.size == sum(part.size for part in parts)
        case Atom(size):
            assert axis.size == size


def test_normal_form_merges_fixed_axes() -> None:
    assert product(Atom(2), Atom(3)) == Atom(6)
    assert concat(Atom(2), Atom(3)) == Atom(5)
    assert product(Atom(1), Atom(4, "g")) == Atom(4, "g")
    assert product(Atom(4, "g"), product(Atom(2), Atom(2))) == Product((Atom(4, "g"), Atom(4)))


@pytest.mark.parametrize(
    ("text", "position"),
    [("a *", 4), ("a)", 2), ("(a", 3), ("a,,b", 3), ("a + ", 5), ("?", 1), ("a@", 3), ("2 a", 3)],
)
def test_errors_state_the_position(text: str, position: int) -> None:
    with pytest.raises(SpecError, match=f"position {position}"):
        parse_axes(text)
