"""Flips of units that are an odd function plus a constant: where tracing admits them, and where it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.specs import OperatorRules, Sight
from rebasin_core.specs.files import GivenSpec, load_spec
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES
from rebasin_core.symmetry import Kind, LinearSymmetry, Shift, Slot, Symmetry
from tests.specs.kinds.maps import linear_error_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rebasin_core.specs import TracedSpec


class Apply(nn.Module):
    """An elementwise function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def traced(model: nn.Module, *shape: int) -> tuple[TracedSpec, dict[str, list[str]]]:
    """Return the checked specification of a model, and the kinds by group."""
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spec = rc.trace_spec(model.eval(), inputs)
    rc.check_spec(spec, model, inputs).require()
    assert linear_error_of(model.double(), inputs.double(), spec.symmetry) < 1e-9
    found = {kinds.name: [str(kind) for kind in kinds.kinds] for kinds in spec.coverage.kinds}
    return spec, found


def dense(activation: nn.Module, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2, bias=bias))


@pytest.mark.parametrize(
    ("activation", "constant"),
    [
        (nn.Sigmoid(), 1.0),
        (nn.Hardsigmoid(), 1.0),
        (Apply(torch.special.expit), 1.0),
        (Apply(torch.special.ndtr), 1.0),
        (Apply(torch.special.erfc), 2.0),
        (Apply(lambda x: torch.acos(x.clamp(-1, 1))), math.pi),
        (Apply(lambda x: 3 * torch.sigmoid(x) / 2), 1.5),
        (Apply(lambda x: torch.sigmoid(x.tanh())), 1.0),
        (nn.Sequential(nn.Sigmoid(), nn.Dropout()), 1.0),
    ],
)
def test_activations(activation: nn.Module, constant: float) -> None:
    spec, _ = traced(dense(activation), 5, 3)
    (flips,) = spec.symmetry.linear
    assert flips.kind is Kind.FLIP
    assert flips.degrees == dict.fromkeys((Slot("0.weight", 0), Slot("0.bias", 0), Slot("2.weight", 1)), 1)
    (shift,) = flips.shifts
    assert (shift.weight, shift.dim, shift.bias) == ("2.weight", 0, "2.bias")
    assert shift.constant == pytest.approx(constant)
    # The values at zero are numerical derivatives.
    points = torch.tensor([-1e-4, 0.0, 1e-4], dtype=torch.float64)
    below, value, above = activation(points).tolist()
    assert (value, (above - below) / 2e-4) == pytest.approx((constant / 2, shift.slope), rel=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        nn.functional.silu,
        nn.functional.logsigmoid,
        nn.functional.relu6,
        nn.functional.hardswish,
        lambda x: torch.sigmoid(x).square(),
        lambda x: torch.sigmoid(x) + 0.5,
        lambda x: torch.sigmoid(x).sigmoid(),
        lambda x: torch.sigmoid(x) * x,
        lambda x: torch.sigmoid(x).mul_(2),
        lambda x: x.clone().sigmoid_(),
    ],
)
def test_other_functions_of_logistic_units(function: Callable[[Tensor], Tensor]) -> None:
    spec, _ = traced(dense(Apply(function)), 5, 3)
    assert spec.symmetry.linear == ()


def test_coverage_has_the_reason_for_no_flips() -> None:
    spec, _ = traced(dense(nn.Sigmoid(), bias=False), 5, 3)
    (group,) = spec.coverage.kinds
    assert str(group.limit) == (
        "units are seen by sigmoid, without flips: the layer with `2.weight` has no bias (sigmoid at sigmoid)"
    )
    spec, _ = traced(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), 5, 3)
    assert spec.groups == {}


def lenet(padding: int | str) -> nn.Sequential:
    """Return a convolutional network of LeNet's kind for 12 x 12 pixels."""
    size = {0: 1, 2: 3, "valid": 1, "same": 3}[padding]
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 5, padding=padding), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(6 * size**2, 5), nn.Sigmoid(), nn.Linear(5, 3),
    )  # fmt: skip


@pytest.mark.parametrize("padding", [0, "valid"])
def test_convolutions_without_padding(padding: int | Literal["valid"]) -> None:
    spec, found = traced(lenet(padding), 2, 1, 12, 12)
    assert found == {"units.0": ["flip"], "units.3": ["flip"], "units.7": ["flip"]}
    assert spec.symmetry.shifts == tuple(Shift(f"{n}.weight", 0, f"{n}.bias") for n in (3, 7, 9))
    assert spec.symmetry.log2_signs == 15


@pytest.mark.parametrize("padding", [2, "same"])
def test_padding_with_zeros_is_not_the_constant(padding: int | Literal["same"]) -> None:
    model = lenet(padding)
    spec, found = traced(model, 2, 1, 12, 12)
    assert found == {"units.0": [], "units.3": ["flip"], "units.7": ["flip"]}
    assert "its units are used by conv2d, which pads with zeros" in str(spec.coverage)
    # The negative control: with flips stated nevertheless, the check names them.
    degrees = dict.fromkeys((Slot("0.weight", 0), Slot("0.bias", 0), Slot("3.weight", 1)), 1)
    wrong = LinearSymmetry("units.0", Kind.FLIP, degrees, shifts=(Shift("3.weight", 0, "3.bias"),))
    given = GivenSpec(spec.layout, replace(spec.symmetry, linear=(*spec.symmetry.linear, wrong)))
    failed = rc.check_spec(given, model, torch.randn(2, 1, 12, 12).double())
    assert [*failed.failing_maps] == ["'units.0', kind flip of `0.weight`, `0.bias`, `3.weight`"]


@pytest.mark.parametrize(
    ("pooling", "admits"),
    [
        (nn.AvgPool2d(3, 2, padding=1), False),
        (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), True),
        (nn.AvgPool2d(2, divisor_override=3), False),
        (nn.AdaptiveAvgPool2d(4), True),
        (nn.MaxPool2d(2), False),
    ],
)
def test_pooling(pooling: nn.Module, *, admits: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), pooling, nn.Flatten(1), nn.LazyLinear(2))
    model(torch.randn(2, 1, 10, 10))
    assert traced(model, 2, 1, 10, 10)[1] == {"units.0": ["flip"] if admits else []}


def test_grouped_convolutions_have_no_flips() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 2)
    )
    spec, found = traced(model, 2, 1, 10, 10)
    assert not any("flip" in kinds for kinds in found.values())
    assert "used by conv2d, which has several groups" in str(spec.coverage)


class Two(nn.Module):
    """Two stacks of logistic units; a function of them is the output. Modules that it does not use are omitted."""

    def __init__(self, combine: Callable[[Two, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        code = combine.__code__
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.wide, self.free, self.single = nn.Linear(8, 2), nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(1))
        used = {*code.co_names, "a", "a" if "_" in code.co_varnames else "b"}
        for name in {"b", "c", "d", "wide", "free", "single"} - used:
            delattr(self, name)
        self.combine = combine

    @override
    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).sigmoid()
        return self.combine(self, first, self.b(x).sigmoid() if hasattr(self, "b") else first)


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        # Layers of their own, or one layer for both, whose bias contains the constant in both uses.
        (lambda m, x, y: m.c(x) + m.d(y), "a b"),
        (lambda m, x, y: m.c(x) * m.d(y), "a b"),
        (lambda m, x, y: m.c(x) * m.c(y), "a"),
        (lambda m, x, _: m.c(x) * m.d(x), "a"),
        # A bias that is used otherwise.
        (lambda m, x, y: m.c(x) * m.c(y.tanh()), ""),
        (lambda m, x, y: functional.linear(x, m.c.weight, m.c.bias) * functional.linear(y, m.d.weight, m.c.bias),
         ""),
        (lambda m, x, y: m.c(x) * m.d(y) * m.c.bias, "b"),
        # Units that are not only used by layers.
        (lambda m, x, y: m.c(x) * m.d(y) + y[:, :2], "a"),
        (lambda m, x, y: m.c(x * y), ""),
        (lambda m, x, y: m.c(x + y), ""),
        (lambda m, x, y: m.wide(torch.cat([x, y.square()], 1)), ""),
        # Like branches are exchanged: their units are those of one group.
        (lambda m, x, y: m.wide(torch.cat([x, y], 1)), "branch.inner"),
        # Products and sums in separate calls.
        (lambda m, x, y: x @ m.c.weight.T + m.c.bias + m.d(y), "a b"),
        (lambda m, x, y: m.c.bias + torch.mm(x, m.c.weight.t()) + m.d(y), "a b"),
        (lambda m, x, y: torch.addmm(m.c.bias, x, m.c.weight.T) + m.d(y), "a b"),
        (lambda m, x, y: torch.addmm(m.c.bias, x, m.c.weight.T, alpha=2) + m.d(y), "b"),
        (lambda m, x, y: m.free - x @ m.c.weight.T + m.d(y), "b"),
        (lambda m, x, y: x @ m.c.weight.T + 1 + m.d(y), "b"),
        (lambda m, x, y: x @ m.c.weight.T + m.single + m.d(y), "b"),
    ],
)  # fmt: skip
def test_uses_of_units_and_biases(combine: Callable[[Two, Tensor, Tensor], Tensor], expected: str) -> None:
    torch.manual_seed(0)
    _, found = traced(Two(combine), 5, 3)
    assert {name for name, kinds in found.items() if "flip" in kinds} == set(expected.split())


def test_a_constant_through_stacked_layers_and_a_normalization_before() -> None:
    """A sign before the normalization, a flip after it."""
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Sigmoid(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2)
    )
    spec, found = traced(model, 5, 3)
    assert {name: sorted(kinds) for name, kinds in found.items()} == {"units.0": ["flip", "sign"], "units.3": ["flip"]}
    assert spec.symmetry.log2_signs == 4 + 4 + 5


def test_calls_inside_decomposed_and_recurrent_operators_have_no_flips() -> None:
    """Their nodes can have the names of other nodes of the graph."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
            self.cell = nn.GRUCell(5, 5)

        @override
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.middle(self.first(x).sigmoid())
            output: Tensor = self.last(self.cell(hidden, hidden.sigmoid()))
            return output

    spec, found = traced(Recurrent(), 5, 3)
    assert found["first"] == ["flip"]
    assert not any("flip" in kinds for name, kinds in found.items() if name != "first")
    assert "its units are used by gru_cell" in str(spec.coverage)


def test_frozen_biases_cannot_be_shifted() -> None:
    model, inputs = dense(nn.Sigmoid()), torch.randn(5, 3)
    spec = rc.trace_spec(model, inputs, freeze=["2.bias"])
    assert spec.symmetry.linear == ()
    assert "the bias of the layer with `2.weight` is not a free parameter" in str(spec.coverage)


def test_a_wrong_constant_and_a_missing_shift_are_named() -> None:
    model, inputs = dense(nn.Sigmoid()), torch.randn(5, 3)
    spec = rc.trace_spec(model, inputs)
    (flips,) = spec.symmetry.linear
    shift = replace(flips.shifts[0], constant=0.5)
    for wrong in (replace(flips, shifts=(shift,)), replace(flips, kind=Kind.SIGN, shifts=())):
        found = rc.check_spec(GivenSpec(spec.layout, Symmetry(spec.layout, (wrong,))), model, inputs)
        assert not found.kept
        (name,) = found.failing_maps
        assert name.startswith(f"'units.0', kind {wrong.kind} of")


def test_files_of_specifications(tmp_path: Path) -> None:
    spec, _ = traced(dense(nn.Sigmoid()), 5, 3)
    rc.save_spec(spec, tmp_path / "spec.json")
    assert load_spec(tmp_path / "spec.json").symmetry == spec.symmetry


def test_rules_of_third_parties_state_the_constant() -> None:
    """A rule of one's own for an operator is not the built-in one: it admits permutations unless it states more."""

    class Own(OperatorRules):
        name = "own_exponential"
        rules: ClassVar = {"aten.exp": BUILT_IN_RULES["aten.special_ndtr"]}
        sights: ClassVar = {"aten.exp": Sight.CENTERED}
        constants: ClassVar = {"aten.exp": (2.0, 1.0)}

    inputs = torch.randn(5, 3)
    model = dense(Apply(torch.exp))
    assert rc.trace_spec(model, inputs).symmetry.linear == ()
    spec = rc.trace_spec(model, inputs, rules={**BUILT_IN_RULES, **Own.rules})
    assert [linear.kind for linear in spec.symmetry.linear] == [Kind.FLIP]
    assert not rc.check_spec(spec, model, inputs).kept  # the statement is false


def test_tables_state_flips() -> None:
    table = {"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}
    model, inputs = dense(nn.Sigmoid()), torch.randn(5, 3)
    spec = rc.table_spec(table, model, kinds={"a": "flip"})
    assert spec.symmetry.linear[0].shifts == (Shift("2.weight", 0, "2.bias"),)
    assert rc.check_spec(spec, model, inputs).passed
    named = rc.table_spec(
        table, model, kinds={"a": {"kind": "flip", "biases": {"2.weight": "2.bias"}, "constant": 2.0}}
    )
    assert named.symmetry.linear[0].shifts == (Shift("2.weight", 0, "2.bias", 2.0),)
    assert not rc.check_spec(named, model, inputs).kept
    without = dense(nn.Sigmoid(), bias=False)
    rows = {name: axes for name, axes in table.items() if name != "2.bias"}
    with pytest.raises(rc.errors.SpecError, match=r"flips need a bias after the units: '2.weight' has none"):
        _ = rc.table_spec(rows, without, kinds={"a": "flip"}).symmetry
