"""Tracing with the operator rules of all plugins."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar, cast, final

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.api.tracing import installed_rules
from rebasin_core.errors import NothingMovesWarning, PluginError
from rebasin_core.specs import TracedSpecFactory
from rebasin_core.specs.operators import AxisTerms
from rebasin_core.specs.operators.base import Rules
from rebasin_core.specs.operators.default import default_rules, find_rules_by


def _entry(distribution: str) -> SimpleNamespace:
    kind = SimpleNamespace(rules={"mylib.scan": lambda call: call.first})
    return SimpleNamespace(family="operator_rules", kind=kind, status=SimpleNamespace(label=distribution))


def test_two_rules_for_one_operator_are_an_error_that_names_both() -> None:
    registry = SimpleNamespace(all=lambda: [_entry("one 1.0"), _entry("two 2.0")])
    with pytest.raises(PluginError, match=r"'mylib.scan' has rules from one 1.0 and two 2.0"):
        installed_rules(cast("rc.Registry", registry))


def test_every_rule_has_a_namespace_and_belongs_to_one_family() -> None:
    rules = installed_rules(rc.Registry(external=False))
    assert {name.partition(".")[0] for name in rules} == {"aten", "torchvision"}
    assert len(rules) > 300
    assert not [name for name in rules if name.startswith("aten.") and not hasattr(torch.ops.aten, name[5:])]


def test_a_failing_rule_fixes_axes_and_is_reported() -> None:
    def broken(call: rc.Call) -> tuple[()]:
        del call
        message = "width"
        raise KeyError(message)

    def short(call: rc.Call) -> tuple[()]:
        del call
        return ()

    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 3)
    rules = installed_rules()
    failed = rc.trace_spec(model, inputs, rules={**rules, "aten.tanh": broken})
    assert not failed.groups
    assert "no rule for aten.tanh (its rule failed: KeyError: 'width')" in str(failed.coverage)

    def uneven(call: rc.Call) -> AxisTerms:
        return (call.first[0], call.unify(call.first[1], call.fixed(7, "made up")))

    mixed = rc.trace_spec(model, inputs, rules={**rules, "aten.tanh": uneven})
    assert "expected two axes of equal length, got 4 and 7" in str(mixed.coverage)
    wrong = rc.trace_spec(model, inputs, rules={**rules, "aten.tanh": short})
    assert "expected axes of shapes ((2, 4),), got ((),)" in str(wrong.coverage)


def test_a_factory_has_options_but_no_rules() -> None:
    factory = rc.build("spec", name="traced", freeze=["2.*"])
    assert factory == TracedSpecFactory(freeze=["2.*"])
    assert factory.canonical_json() == '{"free":[],"freeze":["2.*"],"method":"auto","name":"traced"}'
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    assert not factory.derive(model, torch.randn(2, 3)).groups
    assert len(TracedSpecFactory().derive(model, torch.randn(2, 3)).groups) == 2


def test_a_factory_uses_the_rules_of_installed_plugins_unless_others_are_given() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 3)
    assert default_rules().keys() == installed_rules().keys()
    assert TracedSpecFactory().derive(model, inputs).groups
    assert not TracedSpecFactory().derive(model, inputs, rules={}).groups
    find_rules_by(dict)
    try:
        assert not TracedSpecFactory().derive(model, inputs).groups
        assert not rc.trace_spec(model, inputs).groups
    finally:
        find_rules_by(installed_rules)


def test_a_run_uses_the_rules_of_its_own_registry(tmp_path: Path) -> None:
    @final
    class OtherRules(rc.OperatorRules):
        name = "other"
        rules: ClassVar[Rules] = {"aten.linear": lambda call: call.first}

    plugin = ModuleType("mine")
    vars(plugin)["rebasin_operator_rules"] = rc.hookimpl(lambda: [OtherRules])
    registry = rc.Registry(external=False)
    registry.manager.register(plugin)
    config = rc.RunConfig.model_validate({"data": "digits", "architecture": "mlp", "spec": "traced"})
    with pytest.raises(PluginError, match=r"'aten.linear' has rules from rebasin-core .* and mine"):
        rc.run(config, tmp_path / "out", registry=registry)
    assert not (tmp_path / "out").exists()


class Numbered(nn.Module):
    """Hidden units that are not exchangeable, because of a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("number", torch.arange(4.0))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(self.first(x) * self.number)
        return output


def test_a_specification_without_groups_gives_a_warning() -> None:
    with pytest.warns(NothingMovesWarning, match=r"permutes no axis.*the first: first.weight, axis 0 \[4\]: a buffer"):
        spec = rc.trace_spec(Numbered(), torch.randn(2, 3))
    assert not spec.groups


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.LogSoftmax(-1)),
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 1, 2)),
    ],
    ids=["dense", "normalized", "convolution"],
)
def test_a_model_without_hidden_units_gives_no_warning(model: nn.Module) -> None:
    assert not rc.trace_spec(model, torch.randn(2, 3)).groups  # a warning would be an error


def test_axes_frozen_on_request_give_no_warning() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert not rc.trace_spec(model, torch.randn(2, 3), freeze=["*"]).groups
