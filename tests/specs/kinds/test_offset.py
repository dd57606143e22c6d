"""Scales of normalizations that are one plus a parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind
from tests.specs.kinds.maps import linear_error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNITS = 6


def normalized(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Stream(nn.Module):
    """A residual stream of units that are normalized twice.

    Args:
        scaled: Function of units and a parameter: normalizes the units, and multiplies them by a scale.
    """

    def __init__(self, scaled: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, UNITS), nn.Linear(UNITS, 2)
        self.up, self.down = nn.Linear(UNITS, 5), nn.Linear(5, UNITS)
        self.first, self.last = nn.Parameter(torch.zeros(UNITS)), nn.Parameter(torch.zeros(UNITS))
        self.scaled = scaled

    @override
    def forward(self, x: Tensor) -> Tensor:
        first = self.embed(x)
        stream = first + self.down(functional.gelu(self.up(self.scaled(first, self.first))))
        output: Tensor = self.head(self.scaled(stream, self.last))
        return output


def in_single_precision(x: Tensor, w: Tensor) -> Tensor:
    """Normalize as Gemma does."""
    return (normalized(x.float()) * (1.0 + w.float())).type_as(x)


FORMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one plus": lambda x, w: normalized(x) * (1 + w),
    "plus one": lambda x, w: (w + 1.0) * normalized(x),
    "in single precision": in_single_precision,
    "of three dimensions": lambda x, w: normalized(x) * (w[None].view(1, UNITS) + 1),
    "fused": lambda x, w: functional.rms_norm(x, (UNITS,), 1 + w),
    "with another factor": lambda x, w: normalized(x) * (2 * (1 + w)),
}
CENTERED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "layer norm": lambda x, w: functional.layer_norm(x, (UNITS,), 1 + w),
    "written out": lambda x, w: normalized(x - x.mean(-1, keepdim=True)) * (1 + w),
}


def rows(count: int = 4) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*FORMS, *CENTERED])
def test_units_rotate_if_the_parameters_are_zero(name: str) -> None:
    model = Stream({**FORMS, **CENTERED}[name])
    spec = rc.trace_spec(model, rows())
    (rotation,) = spec.folded_symmetry.linear
    assert rotation.kind is (Kind.ORTHOGONAL if name in FORMS else Kind.ORTHOGONAL_FIXING_ONES)
    assert rotation.zeros == ("first", "last")
    assert not rotation.ones
    assert rotation.required == {"first": 0.0, "last": 0.0}
    assert {slot.tensor for slot in rotation.degrees} == {
        "embed.weight", "embed.bias", "up.weight", "down.weight", "down.bias", "head.weight",
    }  # fmt: skip
    assert not any({slot.tensor for slot in linear.degrees} & {"first", "last"} for linear in spec.symmetry.linear)
    rc.check_spec(spec, model, rows()).require()
    if name != "in single precision":
        assert linear_error_of(model.double(), rows().double(), spec.folded_symmetry) < 1e-9
    (report,) = (one for one in spec.coverage.kinds if one.name == rotation.group)
    assert str(rotation.kind) in str(report)
    assert report.limit is not None
    assert "one is added" not in report.limit.label  # the normalization excludes larger maps, not the scale


def test_the_parameters_have_factors_in_the_folding_only() -> None:
    spec = rc.trace_spec(Stream(FORMS["one plus"]), rows())
    found = [{slot.tensor: degree for slot, degree in one.degrees.items()} for one in spec.foldable.offset_scales]
    assert sorted(found, key=str) == [{"first": 1, "up.weight": -1}, {"last": 1, "head.weight": -1}]
    assert {linear.kind for linear in spec.foldable.offset_scales} == {Kind.NONZERO}


def test_rotations_change_the_function_if_the_parameters_are_not_zero() -> None:
    model = Stream(FORMS["one plus"]).double()
    spec = rc.trace_spec(model, rows().double())
    (rotation,) = spec.folded_symmetry.linear
    wrong = type(spec.folded_symmetry)(
        spec.folded_symmetry.layout, (type(rotation)(rotation.group, rotation.kind, rotation.degrees),)
    )
    assert linear_error_of(model, rows().double(), wrong) > 1e-3


@pytest.mark.parametrize(
    "scaled",
    [
        lambda x, w: normalized(x) * (2 + w),
        lambda x, w: normalized(x) * (1 - w),
        lambda x, w: normalized(x) * (1 + 2 * w),
        lambda x, w: normalized(x) * (1 + w.tanh()),
        lambda x, w: normalized(x) * torch.add(1, w, alpha=2),
        lambda x, w: normalized(x) * (1 + w) + w,
        lambda x, w: normalized(x) * (1 + w) * w,
        lambda x, w: normalized(x) * ((1 + w) + torch.arange(UNITS)),
        lambda x, w: normalized(x * (1 + w)) * w.exp(),
    ],
)
def test_other_functions_of_the_parameters_admit_no_rotations(scaled: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Stream(scaled)
    spec = rc.trace_spec(model, rows())
    assert not any(linear.zeros or not linear.kind.is_factor for linear in spec.folded_symmetry.linear)
    assert not spec.foldable.offset_scales
    assert linear_error_of(model.double(), rows().double(), spec.symmetry) < 1e-9


def test_frozen_parameters_are_no_scales() -> None:
    spec = rc.trace_spec(Stream(FORMS["one plus"]), rows(), freeze=["first"])
    assert not spec.foldable.offset_scales
    assert {linear.kind for linear in spec.folded_symmetry.linear} <= {Kind.SIGN}


def test_files_keep_the_parameters(tmp_path: object) -> None:
    spec = rc.trace_spec(Stream(FORMS["one plus"]), rows())
    rc.save_spec(spec, f"{tmp_path}/spec.json")
    loaded = rc.load_spec(f"{tmp_path}/spec.json")
    assert loaded.folded_symmetry == spec.folded_symmetry
    assert loaded.foldable == spec.foldable
    zero = {name: torch.zeros(UNITS) for name in ("first", "last")}
    assert loaded.symmetry_of(zero) is loaded.folded_symmetry
    assert loaded.symmetry_of({**zero, "last": torch.ones(UNITS)}) is loaded.symmetry


def test_tables_state_the_parameters() -> None:
    table = {
        "embed.weight": "s, -", "embed.bias": "s", "head.weight": "-, s", "head.bias": "-", "up.weight": "u, s",
        "up.bias": "u", "down.weight": "s, u", "down.bias": "s", "first": "s", "last": "s",
    }  # fmt: skip
    model = Stream(FORMS["one plus"])
    spec = rc.table_spec(table, model, kinds={"s": {"kind": "orthogonal", "zeros": ["first", "last"]}})
    assert spec.symmetry.linear == ()
    (rotation,) = spec.folded_symmetry.linear
    (traced,) = rc.trace_spec(model, rows()).folded_symmetry.linear
    assert (rotation.kind, rotation.degrees, rotation.zeros) == (traced.kind, traced.degrees, traced.zeros)
    rc.check_spec(spec, model, rows()).require()
    axes = {"produces": ["embed.*", "down.*"], "consumes": ["up.weight", "head.weight"]}
    wrong = rc.table_spec(table, model, kinds={"s": {"kind": "orthogonal", "zeros": ["first"], **axes}})
    assert rc.check_spec(wrong, model, rows()).failing_maps
