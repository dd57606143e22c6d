"""Symmetries of queries and keys under rotary positions, and of other axes along which constants vary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind, LinearSymmetry, Pairs, Permutation, Symmetry, SymmetryElement
from tests.specs.kinds.rotary_networks import KEY_HEADS, Attention, Rotated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


HALVES = ("rotated_halves", "both_halves", "partial")
NEIGHBORS = ("interleaved", "interleaved_parts", "reshaped", "unbound", "complex_numbers", "partial_neighbors")
OTHERS = ("unequal_halves", "without_sign", "used_halves", "unequal_neighbors")


@pytest.mark.parametrize("form", [*HALVES, *NEIGHBORS, *OTHERS])
def test_pairs_of_each_key_head_have_maps_of_their_own(form: str) -> None:
    model = Attention(form).double()
    spec = rc.trace_spec(model, inputs())
    (found,) = of_fixed(spec)
    kind, size = (Kind.NONZERO, PAIRS) if form in OTHERS else (Kind.ROTATION, 2 * PAIRS)
    assert found.kind is kind
    assert found.pairs is (Pairs.NEIGHBORS if form in NEIGHBORS else Pairs.HALVES)
    assert spec.symmetry.layout.index_shape(found.group) == (KEY_HEADS, size)
    assert {slot.tensor.split(".")[0]: degree for slot, degree in found.degrees.items()} == {"query": 1, "key": -1}
    assert {slot.tensor for slot in found.degrees} == {
        f"{a}.0.{b}" for a in ("query", "key") for b in ("weight", "bias")
    }
    assert change(model, spec.symmetry, inputs()) < 1e-9
    assert spec.symmetry.permutations == spec.layout


@pytest.mark.parametrize("form", OTHERS)
def test_rotations_change_other_functions_of_pairs(form: str) -> None:
    is_of_neighbors = form == "unequal_neighbors"
    spec = rc.trace_spec(Attention("interleaved" if is_of_neighbors else "rotated_halves").double(), inputs())
    rotation = Symmetry(spec.symmetry.layout, tuple(of_fixed(spec)), spec.symmetry.unpermuted)
    assert change(Attention(form).double(), rotation, inputs()) > 1e-3


@pytest.mark.parametrize("form", ["conjugated", "exchanged"])
def test_what_is_not_recognized_has_maps_that_preserve_the_function(form: str) -> None:
    model = Attention(form).double()
    spec = rc.trace_spec(model, inputs())
    assert Kind.ROTATION not in {linear.kind for linear in spec.symmetry.linear}
    assert change(model, spec.symmetry, inputs()) < 1e-9


@pytest.mark.parametrize(("form", "pairs"), [("rotated_halves", Pairs.NEIGHBORS), ("interleaved", Pairs.HALVES)])
def test_rotations_of_other_pairs_change_the_function(form: str, pairs: Pairs) -> None:
    model = Attention(form).double()
    spec = rc.trace_spec(model, inputs())
    rc.check_spec(spec, model, inputs()).require()
    (found,) = of_fixed(spec)
    wrong = Symmetry(spec.symmetry.layout, (replace(found, pairs=pairs),), spec.symmetry.unpermuted)
    assert change(model, wrong, inputs()) > 1e-3
    check = rc.check_spec(rc.specs.GivenSpec(spec.layout, wrong), model, inputs())
    assert any("kind rotation" in name for name in check.failing_maps)


@pytest.mark.parametrize("form", NEIGHBORS)
def test_planted_rotations_of_neighbors_are_recovered(form: str) -> None:
    model = Attention(form, layers=2).double()
    spec = rc.trace_spec(model, inputs())
    reference = {name: tensor.detach() for name, tensor in model.named_parameters()}
    candidate = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(0)).apply(reference)
    found = []
    for group in ("permutation", "full"):
        matcher = rc.matchers.WeightMatcher(symmetry=group)
        aligned = rc.match(reference, candidate, spec, matcher).apply(candidate)
        found.append(max((aligned[name] - tensor).abs().max().item() for name, tensor in reference.items()))
    assert found[1] < 1e-6 < found[0]


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
    ("form", "is_normalized"),
    [
        ("rotated_halves", False),
        ("partial", False),
        ("rotated_halves", True),
        ("interleaved", False),
        ("complex_numbers", False),
        ("partial_neighbors", False),
    ],
)
def test_the_dimension_is_that_of_the_null_space(form: str, is_normalized: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - a parameter of the test
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
    assert null == rc.trace_spec(model, x[:2]).symmetry.dimension


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


@pytest.mark.parametrize("form", ["partial", "partial_neighbors"])
def test_files_keep_rotations(form: str, tmp_path: Path) -> None:
    spec = rc.trace_spec(Attention(form).double(), inputs())
    rc.save_spec(spec, tmp_path / "spec.json")
    loaded = rc.load_spec(tmp_path / "spec.json")
    assert loaded.symmetry == spec.symmetry
    element = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(0))
    element.save(tmp_path / "element.safetensors")
    again = SymmetryElement.load(tmp_path / "element.safetensors", spec.layout)
    tensor = torch.randn(spec.symmetry.layout.shape("query.0.weight"), dtype=torch.float64)
    assert torch.equal(*(one.apply({"query.0.weight": tensor})["query.0.weight"] for one in (element, again)))


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
