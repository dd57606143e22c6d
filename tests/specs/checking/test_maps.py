"""The check of linear maps: derived ones pass, and any family that is one step too large is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.architectures import (
    CifarResNetArchitecture,
    GPTArchitecture,
    MLPArchitecture,
    ResNetArchitecture,
    VGGArchitecture,
    ViTArchitecture,
)
from rebasin_core.architectures.base import Architecture
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.specs.files import GivenSpec
from rebasin_core.symmetry import Kind, LinearSymmetry, Slot, Symmetry
from tests.specs.kinds.maps import one_step_larger
from tests.specs.kinds.networks import Block, dense, normalized, rows, tokens

SMALL = {"width": 8, "depth": 1, "heads": 2, "hidden": 6}
ARCHITECTURES: list[tuple[Architecture, tuple[int, ...], int]] = [
    (MLPArchitecture(hidden=(6, 5)), (4,), 3),
    (MLPArchitecture(hidden=(6, 5), activation="tanh"), (4,), 3),
    (MLPArchitecture(hidden=(6, 5), activation="sigmoid"), (4,), 3),
    (MLPArchitecture(hidden=(6, 5), activation="gelu"), (4,), 3),
    (CifarResNetArchitecture(depth=8), (3, 8, 8), 3),
    (ResNetArchitecture(width=4), (3, 32, 32), 3),
    (VGGArchitecture(width=0.05), (3, 32, 32), 3),
    (ViTArchitecture(patch=4, **SMALL), (1, 8, 8), 3),
    (GPTArchitecture(**SMALL), (5,), 7),
]


def name_of(architecture: Architecture) -> str:
    return getattr(architecture, "activation", architecture.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "shape", "outputs"), ARCHITECTURES, ids=[name_of(a) for a, *_ in ARCHITECTURES]
)
def test_derived_kinds_pass_and_larger_ones_are_named(
    architecture: Architecture, shape: tuple[int, ...], outputs: int
) -> None:
    model = architecture.build(shape, outputs)
    inputs = architecture.example_inputs(shape, outputs)
    spec = rc.trace_spec(model, inputs)
    found = rc.check_spec(spec, model, inputs)
    assert found.kept, found
    assert found.error < 1e-12
    assert (found.dimension, found.log2_signs) == (spec.folded_symmetry.dimension, spec.folded_symmetry.log2_signs)
    larger = dict(reversed([*one_step_larger(spec.symmetry), *one_step_larger(spec.folded_symmetry)]))
    first: dict[str, tuple[str, Symmetry]] = {}  # one of each group, to be tested together
    for what, wrong in larger.items():
        first[wrong.linear[0].group] = what, wrong
    for what, wrong in [item for item in larger.items() if item not in first.values()][:4]:
        assert_named(model, inputs, wrong, what)
    plain = [wrong.linear[0] for _, wrong in first.values() if not wrong.linear[0].ones]
    assert_named(model, inputs, replace(spec.symmetry, linear=tuple(plain)), "all groups")


def assert_named(model: nn.Module, inputs: Tensor, wrong: Symmetry, what: str) -> None:
    """Check that every family of a symmetry is named as failing."""
    found = rc.check_spec(GivenSpec(rc.trace_spec(model, inputs).layout, wrong), model, inputs)
    assert not found.kept, what
    assert not found.failing_groups
    named = [f"'{linear.group}', kind {linear.kind} of" for linear in wrong.linear]
    assert len(found.failing_maps) == len(named), what
    assert all(any(name.startswith(start) for name in found.failing_maps) for start in named)
    with pytest.raises(SpecError, match=r"maps of group '.*', kind \w+ of `"):
        found.require()


HIDDEN = {Slot("0.weight", 0): 1, Slot("0.bias", 0): 1, Slot("2.weight", 1): -1}


@pytest.mark.parametrize(
    ("kind", "degrees", "hint"),
    [
        (Kind.POSITIVE, {Slot("2.weight", 1): 1}, "expected degree -1 at `2.weight`, dimension 1, got 1"),
        (Kind.POSITIVE, {Slot("0.bias", 0): 0}, "expected degree 1 at `0.bias`, dimension 0, got 0"),
        (Kind.POSITIVE, {Slot("2.weight", 1): -2}, "expected degree -1 at `2.weight`, dimension 1, got -2"),
        (Kind.NONZERO, {}, "expected the kind positive"),
        (Kind.SIGN, {}, "no smaller kind and no other degree of one slot preserves the function; remove it"),
    ],
)
def test_a_wrong_family_is_corrected(kind: Kind, degrees: dict[Slot, int], hint: str) -> None:
    model, inputs = dense(nn.ReLU(), 5), rows().float()
    layout = rc.trace_spec(model, inputs).layout
    given = {**HIDDEN, **degrees}
    given = {slot: abs(degree) for slot, degree in given.items()} if kind is Kind.SIGN else given
    found = rc.check_spec(GivenSpec(layout, Symmetry(layout, (LinearSymmetry("units.0", kind, given),))), model, inputs)
    (suggestion,) = found.suggestions
    assert suggestion.endswith(hint)


def test_scales_of_normalizations_are_one_only_where_that_is_needed() -> None:
    model = normalized(nn.RMSNorm(5))
    assert isinstance(model[1].weight, Tensor)
    model[1].weight.data.uniform_(0.5, 2)
    spec = rc.trace_spec(model, rows().float())
    assert rc.check_spec(spec, model, rows().float()).passed
    (rotation,) = spec.folded_symmetry.linear
    careless = replace(spec.folded_symmetry, linear=(replace(rotation, ones=()),))
    found = rc.check_spec(GivenSpec(spec.layout, spec.symmetry, careless), model, rows().float())
    assert [name.split(" of ")[0] for name in found.failing_maps] == ["'units.0', kind orthogonal"]


def test_negative_factors_are_drawn_for_a_single_unit() -> None:
    """With one unit, half of all random signs are the identity."""
    model, inputs = dense(nn.ReLU(), 1), rows().float()
    layout = rc.table_spec({"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}, model).layout
    wrong = GivenSpec(layout, Symmetry(layout, (LinearSymmetry("a", Kind.SIGN, dict.fromkeys(HIDDEN, 1)),)))
    assert not any(
        rc.check_spec(wrong, model, inputs, generator=torch.Generator().manual_seed(seed)).kept for seed in range(5)
    )


class Noisy(nn.Module):
    """A network with dropout in evaluation mode, whose mask commutes with scales but not with mixing maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(nn.functional.dropout(self.first(x), 0.4, training=True))
        return output


def test_random_numbers_have_a_fixed_seed_when_linear_maps_are_applied() -> None:
    model, inputs = Noisy(), torch.randn(4, 3)
    layout = rc.trace_spec(model, inputs).layout
    degrees = {Slot("first.weight", 0): 1, Slot("first.bias", 0): 1, Slot("last.weight", 1): -1}
    checks = {
        kind: rc.check_spec(
            GivenSpec(layout, Symmetry(layout, (LinearSymmetry("first", kind, degrees),))), model, inputs
        )
        for kind in (Kind.NONZERO, Kind.INVERTIBLE)
    }
    assert checks[Kind.NONZERO].passed, checks[Kind.NONZERO]
    assert not checks[Kind.INVERTIBLE].kept


def test_the_precision_is_stated() -> None:
    found = rc.check_spec(rc.trace_spec(Block(), tokens()), Block(), tokens())
    assert found.precision == 2.0**-52
    assert "tolerance 1e-09, in float64)" in str(found)
    assert f"linear maps: {found.dimension} continuous dimensions, {found.log2_signs} signs" in str(found)


def test_maps_of_integer_weights_raise_an_error() -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 2)
            self.register_buffer("first", torch.randint(-5, 5, (6, 3)))

        @override
        def forward(self, x: Tensor) -> Tensor:
            assert isinstance(self.first, Tensor)
            output: Tensor = self.last((x @ self.first.to(x.dtype).T).relu())
            return output

    model = Quantized()
    layout = rc.table_spec({"first": "a, -", "last.weight": "-, a", "last.bias": "-"}, model).layout
    scales = LinearSymmetry("a", Kind.POSITIVE, {Slot("first", 0): 1, Slot("last.weight", 1): -1})
    with pytest.raises(
        InvalidInputError, match=r"`first`: expected floating-point numbers.*kind positive of group 'a'"
    ):
        rc.check_spec(GivenSpec(layout, Symmetry(layout, (scales,))), model, torch.randn(2, 3))
