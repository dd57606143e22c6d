"""Groups of a solution: inseparable groups are merged, and groups are named after modules."""

from rebasin_core.specs.unification.groups import merge_inseparable, named_layout
from rebasin_core.symmetry.axis import Atom, Group, concat, product

OUTER, INNER, WHOLE = Atom(2, "v"), Atom(3, "w"), Atom(6, "v")
GROUPS = {"v": Group("v", 2), "w": Group("w", 3, "v")}


def test_adjacent_inseparable_groups_are_merged() -> None:
    axes = {"a": (product(OUTER, INNER), Atom(4)), "b": (concat(Atom(5), product(OUTER, INNER, Atom(2))),)}
    groups, merged, innermost = merge_inseparable(GROUPS, axes, lambda _first, _second: True)
    assert groups == {"v": Group("v", 6)}
    assert innermost == {"v": "w"}
    assert merged == {"a": (WHOLE, Atom(4)), "b": (concat(Atom(5), product(WHOLE, Atom(2))),)}


def test_groups_that_occur_apart_are_not_merged() -> None:
    for axes in (
        {"a": (product(OUTER, INNER),), "b": (OUTER,)},
        {"a": (OUTER, INNER)},
        {"a": (product(INNER, OUTER),)},
        {"a": (product(OUTER, Atom(2), INNER),)},
    ):
        assert merge_inseparable(GROUPS, axes, lambda _first, _second: True) == (GROUPS, axes, {})
    together = {"a": (product(OUTER, INNER),)}
    assert merge_inseparable(GROUPS, together, lambda _first, _second: False) == (GROUPS, together, {})
    apart = {name: Group(name, group.size) for name, group in GROUPS.items()}
    assert merge_inseparable(apart, together, lambda _first, _second: True) == (apart, together, {})


def test_chains_are_merged_into_one_group() -> None:
    groups = {**GROUPS, "x": Group("x", 4, "w")}
    chain = {"a": (product(OUTER, INNER, Atom(4, "x")),)}
    found, axes, innermost = merge_inseparable(groups, chain, lambda _first, _second: True)
    assert innermost == {"v": "x"}
    assert found == {"v": Group("v", 24)}
    assert axes == {"a": (Atom(24, "v"),)}


def test_groups_are_named_after_the_first_module_that_contains_them() -> None:
    groups = {"7": Group("7", 2), "9": Group("9", 3, "7"), "8": Group("8", 4), "5": Group("5", 6)}
    axes = {
        "net.first.weight": (product(Atom(2, "7"), Atom(3, "9")), Atom(4, "8")),
        "0.weight": (Atom(6, "5"), Atom(4, "8")),
        "scale": (Atom(6, "5"),),
    }
    layout, names = named_layout(groups, axes)
    assert names["9"] == "net.first.inner"
    assert layout.as_json() == {
        "groups": {
            "net.first": {"size": 2},
            "net.first.inner": {"size": 3, "within": "net.first"},
            "net.first.2": {"size": 4},
            "units.0": {"size": 6},
        },
        "axes": {
            "net.first.weight": "net.first*net.first.inner@net.first, net.first.2",
            "0.weight": "units.0, net.first.2",
            "scale": "units.0",
        },
    }


def test_characters_that_the_notation_does_not_allow_are_replaced() -> None:
    layout, _ = named_layout({"1": Group("1", 2)}, {"a-b/c.weight": (Atom(2, "1"),)})
    assert list(layout.groups) == ["a_b_c"]
