"""Symmetries of queries and keys under rotary positions, and of other axes along which constants vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind, LinearSymmetry, Permutation, Symmetry, SymmetryElement
from tests.specs.kinds.rotary_networks import FORMS, KEY_HEADS, Attention, Rotated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.base import PermutationSpec

TOKENS = 6
PAIRS = 2


def inputs(count: int = 2) -> Tensor:
    return torch.randn(count, TOKENS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def change(model: nn.Module, symmetry: Symmetry, *given: Tensor) -> float:
    """Return the largest change of an output by random maps, without a permutation."""
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    maps = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(1)).maps
    element = SymmetryElement(symmetry, Permutation.identity(symmetry.permutations), maps)
    found = functional_call(model, element.apply(values), given)
    difference: Tensor = found - functional_call(model, values, given)
    return difference.abs().max().item()


def of_fixed(spec: PermutationSpec) -> list[LinearSymmetry]:
    return [linear for linear in spec.symmetry.linear if linear.group in spec.symmetry.unpermuted]


EXPECTED = {
    "rotated_halves": (Kind.ROTATION, (KEY_HEADS, 2 * PAIRS)),
    "both_halves": (Kind.ROTATION, (KEY_HEADS, 2 * PAIRS)),
    "partial": (Kind.ROTATION, (KEY_HEADS, 2 * PAIRS)),
    "interleaved": (Kind.NONZERO, (KEY_HEADS, PAIRS)),
    "unequal_halves": (Kind.NONZERO, (KEY_HEADS, PAIRS)),
    "without_sign": (Kind.NONZERO, (KEY_HEADS, PAIRS)),
    "used_halves": (Kind.NONZERO, (KEY_HEADS, PAIRS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_each_key_head_have_maps_of_their_own(form: str) -> None:
    model = Attention(form).double()
    spec = rc.trace_spec(model, inputs())
    (found,) = of_fixed(spec)
    kind, shape = EXPECTED[form]
    assert found.kind is kind
    assert spec.symmetry.layout.index_shape(found.group) == shape
    assert {slot.tensor.split(".")[0]: degree for slot, degree in found.degrees.items()} == {"query": 1, "key": -1}
    assert {slot.tensor for slot in found.degrees} == {
        f"{a}.0.{b}" for a in ("query", "key") for b in ("weight", "bias")
    }
    assert change(model, spec.symmetry, inputs()) < 1e-9
    assert spec.symmetry.permutations == spec.layout


@pytest.mark.parametrize("form", ["unequal_halves", "without_sign", "used_halves"])
def test_rotations_change_other_functions_of_pairs(form: str) -> None:
    spec = rc.trace_spec(Attention("rotated_halves").double(), inputs())
    rotation = Symmetry(spec.symmetry.layout, tuple(of_fixed(spec)), spec.symmetry.unpermuted)
    assert change(Attention(form).double(), rotation, inputs()) > 1e-3


@pytest.mark.parametrize("kind", [Kind.INVERTIBLE, Kind.NONZERO])
def test_maps_that_do_not_act_on_pairs_as_rotations_change_the_function(kind: Kind) -> None:
    model = Attention("rotated_halves").double()
    spec = rc.trace_spec(model, inputs())
    (found,) = of_fixed(spec)
    larger = LinearSymmetry(found.group, kind, found.degrees)
    assert change(model, Symmetry(spec.symmetry.layout, (larger,), spec.symmetry.unpermuted), inputs()) > 1e-3


def test_layers_have_rotations_of_their_own() -> None:
    model = Attention("rotated_halves", layers=2).double()
    found = of_fixed(rc.trace_spec(model, inputs()))
    assert [{slot.tensor.split(".")[1] for slot in linear.degrees} for linear in found] == [{"0"}, {"1"}]


def test_normalized_queries_and_keys_have_factors_on_the_scales_of_the_normalizations() -> None:
    model = Attention("rotated_halves", is_normalized=True, has_bias=False).double()
    spec = rc.trace_spec(model, inputs())
    scaled, *signs = of_fixed(spec)
    assert scaled.kind is Kind.NONZERO
    assert [(slot.tensor, slot.number, degree) for slot, degree in scaled.degrees.items()] == [
        ("scale.0", 0, 1),
        ("scale.0", 1, 1),
        ("scale.1", 0, -1),
        ("scale.1", 1, -1),
    ]
    # Signs of query, key and both scales in each half, and the rotation of both halves by 180 degrees.
    assert [linear.kind for linear in signs] == [Kind.SIGN] * 4
    assert change(model, spec.symmetry, inputs()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "is_normalized", "others"),
    [
        ("rotated_halves", False, 0),
        ("partial", False, 0),
        ("rotated_halves", True, 0),
        # Rotations of neighboring units are not expressed: one angle for each pair of each key head.
        ("interleaved", False, PAIRS * KEY_HEADS),
    ],
)
def test_the_dimension_is_that_of_the_null_space(form: str, is_normalized: bool, others: int) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - a parameter of the test
    model = Attention(form, is_normalized=is_normalized, has_bias=False).double()
    x = inputs(40)

    def outputs(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(model, values, (x,))
        return found.flatten()

    jacobian = jacrev(outputs)({name: tensor.detach() for name, tensor in model.named_parameters()})
    rows = torch.cat([own.flatten(1) for own in jacobian.values()], 1)
    singular = torch.linalg.svdvals(rows)
    null = int((singular < 1e-11 * singular[0]).sum())
    assert singular[-null - 1] > 1e-8 * singular[0]
    assert null == rc.trace_spec(model, x[:2]).symmetry.dimension + others


@pytest.mark.parametrize("from_table", [False, True])
def test_angles_may_depend_on_positions_in_the_input(from_table: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - a parameter of the test
    model = Rotated(from_table=from_table).double()
    given = (inputs(), torch.tensor([0, 1, 2, 5, 6, 8]))
    spec = rc.trace_spec(model, given)
    assert [linear.kind for linear in of_fixed(spec)] == [Kind.ROTATION]
    assert change(model, spec.symmetry, *given) < 1e-9


def test_tensors_that_must_not_change_have_no_maps() -> None:
    model = Attention("rotated_halves").double()
    assert not of_fixed(rc.trace_spec(model, inputs(), freeze=["query.0.weight"]))


def test_files_keep_rotations(tmp_path: object) -> None:
    spec = rc.trace_spec(Attention("partial").double(), inputs())
    path = f"{tmp_path}/spec.json"
    rc.save_spec(spec, path)
    assert rc.load_spec(path).symmetry == spec.symmetry


class Scaled(nn.Module):
    """Hidden units multiplied by constants."""

    def __init__(self, activation: nn.Module, constants: Sequence[float]) -> None:
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(3, 4), nn.Linear(4, 2), activation
        self.register_buffer("constants", torch.tensor(constants, dtype=torch.float64), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.activation(self.first(x)) * self.get_buffer("constants"))
        return output


@pytest.mark.parametrize(("activation", "kind"), [(nn.ReLU(), Kind.POSITIVE), (nn.Tanh(), Kind.SIGN)])
def test_units_multiplied_by_different_constants_are_scaled_but_not_permuted(activation: nn.Module, kind: Kind) -> None:
    model = Scaled(activation, [1.0, 2.0, 3.0, 4.0]).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    spec = rc.trace_spec(model, x)
    assert not spec.layout.groups
    (found,) = of_fixed(spec)
    assert found.kind is kind
    assert change(model, spec.symmetry, x) < 1e-9


def test_constants_added_to_units_admit_no_factors() -> None:
    class Added(Scaled):
        @override
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.last((self.first(x) + self.get_buffer("constants")).relu())
            return output

    assert not rc.trace_spec(
        Added(nn.ReLU(), [1.0, 2.0, 3.0, 4.0]).double(), torch.randn(2, 3).double()
    ).symmetry.linear
