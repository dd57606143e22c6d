from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from typing_extensions import override

from rebasin_core import Group, Layout, PermutationSpec, table_spec
from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry import Atom, Kind, LinearSymmetry, Slot, Symmetry, concat, product

# Attention with rotary positions: queries and keys are fused, values are mixed freely within each head.
HEADS, WIDTH, VALUES, STREAM = 3, 4, 2, 5
LAYOUT = Layout(
    {
        "s": Group("s", STREAM),
        "h": Group("h", HEADS),
        "r": Group("r", WIDTH, "h"),
        "v": Group("v", VALUES, "h"),
    },
    {
        "qk": (product(Atom(HEADS, "h"), concat(Atom(WIDTH, "r"), Atom(WIDTH, "r"))), Atom(STREAM, "s")),
        "v": (product(Atom(HEADS, "h"), Atom(VALUES, "v")), Atom(STREAM, "s")),
        "o": (Atom(STREAM, "s"), product(Atom(HEADS, "h"), Atom(VALUES, "v"))),
        "norm": (Atom(STREAM, "s"),),
    },
)
# Atoms of the first axis of `qk`: 0 is "h", 1 and 2 are the two of "r".
ROTATION = LinearSymmetry("r", Kind.ROTATION, {Slot("qk", 0, 1): 1, Slot("qk", 0, 2): -1})
VALUE = LinearSymmetry("v", Kind.INVERTIBLE, {Slot("v", 0, 1): 1, Slot("o", 1, 1): -1})
STREAM_MAP = LinearSymmetry(
    "s", Kind.ORTHOGONAL, {Slot("qk", 1): -1, Slot("v", 1): -1, Slot("o", 0): 1}, ones=("norm",)
)
SYMMETRY = Symmetry(LAYOUT, (ROTATION, VALUE, STREAM_MAP))


def test_dimensions_are_those_of_the_groups_of_matrices() -> None:
    # Two real parameters per pair and head; 2 x 2 matrices per head; rotations of 5 dimensions.
    assert SYMMETRY.dimension == HEADS * WIDTH + HEADS * 4 + 10
    assert SYMMETRY.log2_signs == 0
    assert [SYMMETRY.map_shape(item) for item in SYMMETRY.linear] == [(3, 2, 2), (3, 2, 2), (5, 5)]
    assert SYMMETRY.of("v") == (VALUE,)
    assert Symmetry(LAYOUT).dimension == 0


@pytest.mark.parametrize(
    ("kind", "dimension"),
    # Four units; the stabilizer of a vector in O(4) is O(3).
    [
        (Kind.SIGN, 0),
        (Kind.POSITIVE, 4),
        (Kind.NONZERO, 4),
        (Kind.ROTATION, 4),
        (Kind.ORTHOGONAL, 6),
        (Kind.ORTHOGONAL_FIXING_ONES, 3),
        (Kind.INVERTIBLE, 16),
    ],
)
def test_dimension_of_each_kind(kind: Kind, dimension: int) -> None:
    layout = Layout({"n": Group("n", 4)}, {"w": (Atom(4, "n"),)})
    symmetry = Symmetry(layout, (LinearSymmetry("n", kind, {Slot("w", 0): 1}),))
    assert symmetry.dimension == dimension
    assert symmetry.log2_signs == (4 if kind in {Kind.SIGN, Kind.NONZERO} else 0)


def test_groups_with_rotations_are_not_permuted() -> None:
    layout = SYMMETRY.permutations
    assert set(layout.groups) == {"s", "h", "v"}
    # The two halves of the fused axis merge to one fixed axis, as a table would have it.
    assert layout.axes["qk"][0] == product(Atom(HEADS, "h"), Atom(2 * WIDTH))
    assert Symmetry(LAYOUT, (VALUE,)).permutations is LAYOUT


def test_symmetries_are_values_that_survive_json() -> None:
    anorm = Symmetry.from_json(SYMMETRY.as_json())
    assert anorm == SYMMETRY
    assert anorm.fingerprint == SYMMETRY.fingerprint
    assert anorm.unpermuted == {"r"}
    assert Symmetry(LAYOUT, (VALUE,)).fingerprint != SYMMETRY.fingerprint


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: LinearSymmetry("v", Kind.INVERTIBLE, {}), "at least one slot"),
        (lambda: LinearSymmetry("v", Kind.INVERTIBLE, {Slot("v", 0, 1): 0}), "at least one slot"),
        (lambda: LinearSymmetry("v", Kind.INVERTIBLE, {Slot("v", 0, 1): 2}), "degree 1 or -1 for maps of kind invert"),
        (lambda: LinearSymmetry("s", Kind.SIGN, {Slot("v", 1): 0.5}), "integer degrees"),  # type: ignore[dict-item]
        (lambda: linear("x", Kind.SIGN, Slot("v", 1)), "names the group 'x'"),
        (lambda: linear("s", Kind.SIGN, Slot("vv", 1)), "names the tensor 'vv'; did you mean 'v'"),
        (lambda: linear("s", Kind.SIGN, Slot("v", 2)), "has 2 dimensions, got a slot of group 's' at 2"),
        (lambda: linear("v", Kind.SIGN, Slot("v", 0)), r"at one of the atoms \[1\], got 0"),
        (lambda: linear("s", Kind.ROTATION, Slot("v", 1)), "an even number of units for rotations of pairs, got 5"),
        (lambda: linear("h", Kind.ORTHOGONAL, Slot("v", 0)), "inner groups .*expected factors"),
        (lambda: linear("s", Kind.ORTHOGONAL, Slot("v", 1), ones=("v",)), "must be one or zero and have degrees too"),
        (
            lambda: LinearSymmetry("s", Kind.ORTHOGONAL, {Slot("v", 1): 1}, ("norm",), ("norm",)),
            r"\['norm'\] must be one and zero",
        ),
        (lambda: linear("s", Kind.ORTHOGONAL, Slot("v", 1), ones=("norms",)), "did you mean 'norm'"),
        (
            lambda: Symmetry(LAYOUT, (VALUE, LinearSymmetry("v", Kind.SIGN, {Slot("v", 0, 1): 1}))),
            "at most one family of maps",
        ),
        (lambda: Symmetry(LAYOUT, (), frozenset({"x"})), "`unpermuted` names the group 'x'"),
        (lambda: Symmetry(LAYOUT, (), frozenset({"h"})), r"\['r', 'v'\] are nested in groups that cannot be permuted"),
    ],
)
def test_contradictions_are_rejected(build: Callable[[], object], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        build()


def linear(group: str, kind: Kind, slot: Slot, ones: tuple[str, ...] = ()) -> Symmetry:
    return Symmetry(LAYOUT, (LinearSymmetry(group, kind, {slot: 1}, ones),))


def test_other_types_are_rejected() -> None:
    with pytest.raises(InvalidInputError, match="member of `Kind`"):
        LinearSymmetry("s", "sign", {Slot("v", 1): 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="a `Layout`"):
        Symmetry(SYMMETRY)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="`LinearSymmetry`"):
        Symmetry(LAYOUT, (LAYOUT,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"layout": LAYOUT.as_json(), "linear": {}},
        {"layout": LAYOUT.as_json(), "linear": [3]},
        {"layout": LAYOUT.as_json(), "linear": [], "unpermuted": [1]},
        {"layout": LAYOUT.as_json(), "linear": [VALUE.as_json() | {"kind": "projective"}]},
        {"layout": LAYOUT.as_json(), "linear": [VALUE.as_json() | {"kind": []}]},
        {"layout": LAYOUT.as_json(), "linear": [VALUE.as_json() | {"degrees": [["v", 0, 1]]}]},
        {"layout": LAYOUT.as_json(), "linear": [VALUE.as_json() | {"degrees": [["v", 0, 1, True]]}]},
        {"layout": LAYOUT.as_json(), "linear": [VALUE.as_json() | {"ones": "norm"}]},
        {"linear": []},
    ],
)
def test_damaged_documents_are_rejected(document: Any) -> None:
    with pytest.raises(FileFormatError, match="expected a"):
        Symmetry.from_json(document)


class Rotated(PermutationSpec):
    """A specification whose symmetry has a group that the permutations do not have."""

    @override
    def _layout(self) -> Layout:
        return SYMMETRY.permutations

    @override
    def _symmetry(self) -> Symmetry:
        return SYMMETRY


class Contradictory(PermutationSpec):
    @override
    def _layout(self) -> Layout:
        return LAYOUT

    @override
    def _symmetry(self) -> Symmetry:
        return SYMMETRY


def test_a_specification_has_permutations_only_by_default() -> None:
    spec = table_spec({"weight": "-, -", "bias": "-"}, nn.Linear(4, 3))
    assert spec.symmetry == Symmetry(spec.layout)
    assert Rotated().symmetry is Rotated().symmetry
    with pytest.raises(SpecError, match="list in `unpermuted`"):
        _ = Contradictory().symmetry
