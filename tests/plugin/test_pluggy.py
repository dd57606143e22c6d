"""Registration through pluggy: markers, wrappers and the plugin manager work as documented by pluggy."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Generator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, final

import pytest
from typing_extensions import override

import rebasin_core
from rebasin_core import Matcher, MatchOutcome, MatchProblem, MatchResult, Permutation, Registry, hookimpl
from rebasin_core.barriers.paths.curve import GivenCurvePath
from rebasin_core.errors import BrokenPluginWarning, PluginError, UnknownNameError
from rebasin_core.evaluation.loss_likelihood import LossLikelihood
from rebasin_core.evaluation.tempered import TemperedLikelihood
from rebasin_core.evaluation.user_metrics import DatasetMetric, FunctionMetric
from rebasin_core.plugin import discovery
from rebasin_core.plugin.registry import INTERFACES
from rebasin_core.testing import conformance_checks
from rebasin_core.testing.examples.registered import examples_of


@final
class IdentityMatcher(Matcher):
    """Permutes nothing."""

    name: Literal["identity"] = "identity"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        identity = Permutation.identity(problem.layout)
        return MatchResult(identity, 0.0, 0.0, MatchOutcome.CONVERGED, (0.0,), {})


@final
class OtherWeightMatcher(Matcher):
    """Has the name of a built-in matcher."""

    name: Literal["weight"] = "weight"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        raise NotImplementedError


@pytest.fixture
def registry() -> Registry:
    return Registry(external=False)


def plugin(function: Callable[..., Any], *more: Callable[..., Any], name: str = "made_by_hand") -> ModuleType:
    module = ModuleType(name)
    for each in (function, *more):
        setattr(module, each.__name__, each)
    return module


@hookimpl
def rebasin_matchers() -> list[type[Matcher]]:
    return [IdentityMatcher]


def test_plugin_registered_by_hand_is_available_immediately(registry: Registry) -> None:
    assert "identity" not in registry.names("matcher")  # the family has been requested before
    registry.manager.register(plugin(rebasin_matchers))
    assert registry.build("matcher", "identity") == IdentityMatcher()
    assert registry.get("matcher", "identity").status.label == "made_by_hand registered by hand"
    assert [status.name for status in registry.plugins] == ["builtin", "made_by_hand"]


def test_names_in_options_are_resolved_in_the_same_registry(registry: Registry) -> None:
    registry.manager.register(plugin(rebasin_matchers))
    wrapper = registry.build("matcher", {"name": "chain", "matchers": ["identity", "weight"]})
    assert repr(wrapper) == "ChainMatcher(matchers=(IdentityMatcher(), WeightMatcher()))"


def test_hook_function_with_another_name(registry: Registry) -> None:
    @hookimpl(specname="rebasin_matchers")
    def my_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher]

    registry.manager.register(plugin(my_matchers))
    assert registry.strategy_class("matcher", "identity") is IdentityMatcher


def test_tryfirst_neither_replaces_nor_repeats_other_classes(registry: Registry) -> None:
    @hookimpl(tryfirst=True)
    def rebasin_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher, OtherWeightMatcher]

    registry.manager.register(plugin(rebasin_matchers))
    assert len([entry for entry in registry.all() if entry.name == "identity"]) == 1
    with pytest.raises(
        PluginError, match=r"'weight' is registered by rebasin-core .* and made_by_hand registered by hand"
    ):
        registry.get("matcher", "weight")


def test_plugin_can_be_unregistered_and_registered_again(registry: Registry) -> None:
    module = plugin(rebasin_matchers)
    registry.manager.register(module)
    assert "identity" in registry.names("matcher")
    registry.manager.unregister(module)
    assert "identity" not in registry.names("matcher")
    with pytest.raises(UnknownNameError, match="no matcher 'identity'"):
        registry.build("matcher", "identity")
    registry.manager.register(module)
    assert "identity" in registry.names("matcher")


def test_blocked_plugin_cannot_be_registered_again(registry: Registry) -> None:
    registry.manager.register(plugin(rebasin_matchers), name="mine")
    assert "identity" in registry.names("matcher")
    registry.manager.set_blocked("mine")
    assert "identity" not in registry.names("matcher")
    assert registry.manager.register(plugin(rebasin_matchers), name="mine") is None
    assert "identity" not in registry.names("matcher")


def test_wrapper_can_change_the_classes_of_each_plugin(registry: Registry) -> None:
    seen: list[list[list[type[Matcher]]]] = []

    @hookimpl(wrapper=True, specname="rebasin_matchers")
    def without_annealing() -> Generator[None, list[list[type[Matcher]]], list[list[type[Matcher]]]]:
        returned = yield
        seen.append(returned)
        kept = [[kind for kind in kinds if kind.registered_name() != "annealing"] for kinds in returned]
        return kept  # ruff: ignore[return-in-generator] - required by wrappers of pluggy

    registry.manager.register(plugin(rebasin_matchers))
    before = set(registry.names("matcher"))
    registry.manager.register(plugin(without_annealing, name="wrapper"))
    assert before - set(registry.names("matcher")) == {"annealing"}
    # The wrapper is called once for each plugin with matchers.
    assert sorted(len(kinds) for [kinds] in seen) == [1, len(before) - 1]
    registry.manager.unregister(name="wrapper")
    assert set(registry.names("matcher")) == before


def test_misspelt_hook_is_reported_with_the_nearest_name(registry: Registry) -> None:
    @hookimpl(specname="rebasin_machers")
    def my_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher]

    @hookimpl
    def rebasin_datasets() -> list[type]:
        return []

    registry.manager.register(plugin(my_matchers, rebasin_datasets))
    with pytest.warns(BrokenPluginWarning, match="unknown hook 'rebasin_machers': did you mean 'rebasin_matchers'"):
        registry.names("matcher")
    with pytest.raises(UnknownNameError, match=r"made_by_hand registered by hand \(unknown hook 'rebasin_machers'"):
        registry.build("matcher", "identity")


def test_optional_hook_of_a_later_version_is_allowed(registry: Registry) -> None:
    @hookimpl(optionalhook=True)
    def rebasin_things_to_come() -> list[type]:
        return []

    registry.manager.register(plugin(rebasin_things_to_come, rebasin_matchers))
    assert "identity" in registry.names("matcher")
    assert all(status.error is None for status in registry.plugins)


def test_name_of_an_installed_plugin_is_distribution_and_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("mine", f"{__name__}", discovery.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: plugin(rebasin_matchers))
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point] if group == "rebasin_core" else [])
    registry = Registry()
    assert "identity" in registry.names("matcher")
    registry.manager.set_blocked("unknown distribution:mine")
    assert "identity" not in registry.names("matcher")


@pytest.mark.parametrize("returned", [int, IdentityMatcher(), None])
def test_object_that_is_not_a_class_of_the_family_is_reported(registry: Registry, returned: object) -> None:
    @hookimpl
    def rebasin_matchers() -> list[object]:
        return [returned]

    registry.manager.register(plugin(rebasin_matchers))
    with pytest.warns(BrokenPluginWarning, match=f"expected subclasses of Matcher, got {re.escape(repr(returned))}"):
        assert "weight" in registry.names("matcher")
    assert registry.plugins[-1].error is not None


def test_class_without_a_name_is_reported(registry: Registry) -> None:
    @final
    class NamelessMatcher(Matcher):
        @override
        def _match(self, problem: MatchProblem) -> MatchResult:
            raise NotImplementedError

    @hookimpl
    def rebasin_matchers() -> list[type[Matcher]]:
        return [NamelessMatcher]

    registry.manager.register(plugin(rebasin_matchers))
    with pytest.warns(BrokenPluginWarning, match="NamelessMatcher has no registered name; add a line"):
        registry.names("matcher")


def test_examples_are_requested_through_pluggy(registry: Registry, tmp_path: Path) -> None:
    @hookimpl(specname="rebasin_examples")
    def small_instances(kind: type[object]) -> list[object]:  # a hook need not take all arguments
        assert kind is IdentityMatcher
        return [IdentityMatcher(), IdentityMatcher()]

    registry.manager.register(plugin(rebasin_matchers, small_instances))
    assert examples_of(registry.get("matcher", "identity"), tmp_path) == (IdentityMatcher(), IdentityMatcher())
    checks = {check.law.name: check for check in conformance_checks("made_by_hand", registry=registry)}
    checks["no_worse_than_the_identity"].run()


# They hold functions or objects of a program, which have no name, a fitted temperature, or a curve.
OF_OBJECTS = {LossLikelihood, FunctionMetric, DatasetMetric, GivenCurvePath, TemperedLikelihood}


def test_every_concrete_component_of_this_package_is_registered(registry: Registry) -> None:
    for info in pkgutil.walk_packages(rebasin_core.__path__, "rebasin_core."):
        if not info.name.endswith("__main__"):
            import_module(info.name)
    registered = {entry.kind for entry in registry.all()}
    for interface in INTERFACES.values():
        concrete = {kind for kind in descendants(interface) if not kind.__name__.startswith(("Abstract", "_"))}
        own = {kind for kind in concrete if kind.__module__.startswith("rebasin_core.")} - OF_OBJECTS
        assert own <= registered, own - registered


def descendants(kind: type[Any]) -> set[type[Any]]:
    return {kind for child in kind.__subclasses__() for kind in (child, *descendants(child))}
