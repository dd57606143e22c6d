"""Registration goes through pluggy: its markers, wrappers and plugin manager work as pluggy documents them."""

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
from rebasin_core.errors import BrokenPluginWarning, PluginError, UnknownNameError
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


def test_a_plugin_registered_by_hand_is_found_at_once(registry: Registry) -> None:
    assert "identity" not in registry.names("matcher")  # the family has been asked for before
    registry.manager.register(plugin(rebasin_matchers))
    assert registry.build("matcher", "identity") == IdentityMatcher()
    assert registry.get("matcher", "identity").status.label == "made_by_hand registered by hand"
    assert [status.name for status in registry.plugins] == ["builtin", "made_by_hand"]


def test_names_within_options_are_found_there_too(registry: Registry) -> None:
    registry.manager.register(plugin(rebasin_matchers))
    wrapper = registry.build("matcher", {"name": "chain", "matchers": ["identity", "weight"]})
    assert repr(wrapper) == "ChainMatcher(matchers=(IdentityMatcher(), WeightMatcher()))"


def test_a_hook_may_have_another_name(registry: Registry) -> None:
    @hookimpl(specname="rebasin_matchers")
    def my_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher]

    registry.manager.register(plugin(my_matchers))
    assert registry.strategy_class("matcher", "identity") is IdentityMatcher


def test_coming_first_neither_replaces_nor_repeats_what_others_offer(registry: Registry) -> None:
    @hookimpl(tryfirst=True)
    def rebasin_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher, OtherWeightMatcher]

    registry.manager.register(plugin(rebasin_matchers))
    assert len([entry for entry in registry.all() if entry.name == "identity"]) == 1
    with pytest.raises(
        PluginError, match=r"'weight' is offered by rebasin-core .* and made_by_hand registered by hand"
    ):
        registry.get("matcher", "weight")


def test_unregistered_is_gone_and_can_come_back(registry: Registry) -> None:
    module = plugin(rebasin_matchers)
    registry.manager.register(module)
    assert "identity" in registry.names("matcher")
    registry.manager.unregister(module)
    assert "identity" not in registry.names("matcher")
    with pytest.raises(UnknownNameError, match="no matcher 'identity'"):
        registry.build("matcher", "identity")
    registry.manager.register(module)
    assert "identity" in registry.names("matcher")


def test_blocked_is_gone_and_stays_away(registry: Registry) -> None:
    registry.manager.register(plugin(rebasin_matchers), name="mine")
    assert "identity" in registry.names("matcher")
    registry.manager.set_blocked("mine")
    assert "identity" not in registry.names("matcher")
    assert registry.manager.register(plugin(rebasin_matchers), name="mine") is None
    assert "identity" not in registry.names("matcher")


def test_a_wrapper_sees_what_each_plugin_offers_and_can_change_it(registry: Registry) -> None:
    seen: list[list[list[type[Matcher]]]] = []

    @hookimpl(wrapper=True, specname="rebasin_matchers")
    def without_annealing() -> Generator[None, list[list[type[Matcher]]], list[list[type[Matcher]]]]:
        offered = yield
        seen.append(offered)
        kept = [[kind for kind in kinds if kind.registered_name() != "annealing"] for kinds in offered]
        return kept  # ruff: ignore[return-in-generator] - the way in which wrappers of pluggy return

    registry.manager.register(plugin(rebasin_matchers))
    before = set(registry.names("matcher"))
    registry.manager.register(plugin(without_annealing, name="wrapper"))
    assert before - set(registry.names("matcher")) == {"annealing"}
    # Once for each plugin that offers matchers, and for no other.
    assert sorted(len(kinds) for [kinds] in seen) == [1, len(before) - 1]
    registry.manager.unregister(name="wrapper")
    assert set(registry.names("matcher")) == before


def test_a_misspelt_hook_is_named_with_the_nearest_name(registry: Registry) -> None:
    @hookimpl(specname="rebasin_machers")
    def my_matchers() -> list[type[Matcher]]:
        return [IdentityMatcher]

    @hookimpl
    def rebasin_datasets() -> list[type]:
        return []

    registry.manager.register(plugin(my_matchers, rebasin_datasets))
    with pytest.warns(BrokenPluginWarning, match="there is no hook 'rebasin_machers': did you mean 'rebasin_matchers'"):
        registry.names("matcher")
    with pytest.raises(UnknownNameError, match=r"made_by_hand registered by hand \(there is no hook 'rebasin_machers'"):
        registry.build("matcher", "identity")


def test_a_hook_of_a_later_version_may_be_marked_as_optional(registry: Registry) -> None:
    @hookimpl(optionalhook=True)
    def rebasin_things_to_come() -> list[type]:
        return []

    registry.manager.register(plugin(rebasin_things_to_come, rebasin_matchers))
    assert "identity" in registry.names("matcher")
    assert all(status.error is None for status in registry.plugins)


def test_an_installed_plugin_is_registered_under_its_distribution_and_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("mine", f"{__name__}", discovery.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: plugin(rebasin_matchers))
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point] if group == "rebasin_core" else [])
    registry = Registry()
    assert "identity" in registry.names("matcher")
    registry.manager.set_blocked("unknown distribution:mine")
    assert "identity" not in registry.names("matcher")


@pytest.mark.parametrize("offered", [int, IdentityMatcher(), None])
def test_what_is_no_class_of_the_family_is_an_error_of_its_plugin(registry: Registry, offered: object) -> None:
    @hookimpl
    def rebasin_matchers() -> list[object]:
        return [offered]

    registry.manager.register(plugin(rebasin_matchers))
    with pytest.warns(BrokenPluginWarning, match=f"expected subclasses of Matcher, got {re.escape(repr(offered))}"):
        assert "weight" in registry.names("matcher")
    assert registry.plugins[-1].error is not None


def test_a_class_without_a_name_is_an_error_of_its_plugin(registry: Registry) -> None:
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


def test_examples_come_through_pluggy_too(registry: Registry, tmp_path: Path) -> None:
    @hookimpl(specname="rebasin_examples")
    def small_ones(kind: type[object]) -> list[object]:  # a hook need not take all arguments
        assert kind is IdentityMatcher
        return [IdentityMatcher(), IdentityMatcher()]

    registry.manager.register(plugin(rebasin_matchers, small_ones))
    assert examples_of(registry.get("matcher", "identity"), tmp_path) == (IdentityMatcher(), IdentityMatcher())
    checks = {check.law.name: check for check in conformance_checks("made_by_hand", registry=registry)}
    checks["never_worse_than_the_identity"].run()


def test_every_concrete_component_of_this_package_is_registered(registry: Registry) -> None:
    for info in pkgutil.walk_packages(rebasin_core.__path__, "rebasin_core."):
        if not info.name.endswith("__main__"):
            import_module(info.name)
    registered = {entry.kind for entry in registry.all()}
    for interface in INTERFACES.values():
        concrete = {kind for kind in descendants(interface) if not kind.__name__.startswith(("Abstract", "_"))}
        own = {kind for kind in concrete if kind.__module__.startswith("rebasin_core.")}
        assert own <= registered, own - registered


def descendants(kind: type[Any]) -> set[type[Any]]:
    return {kind for child in kind.__subclasses__() for kind in (child, *descendants(child))}
