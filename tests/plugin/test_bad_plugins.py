"""Broken plugins are reported with name, version and error, and other plugins are not affected."""

from __future__ import annotations

import itertools
import json
import signal
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, final

import pytest
from click.testing import CliRunner
from pydantic import ConfigDict
from typing_extensions import override

from rebasin_core import Matcher, MatchProblem, MatchResult, Registry, hookimpl
from rebasin_core.config.schema import run_schema
from rebasin_core.errors import BrokenPluginWarning, PluginError
from rebasin_core.matchers import WeightMatcher
from rebasin_core.plugin import discovery
from rebasin_core.plugin.registry import FAMILIES
from rebasin_core.testing import run_checks

MAIN = import_module("rebasin_core.cli.main")  # the package has a function of this name


class AbstractDelegatingMatcher(Matcher):
    """Delegates to `weight`."""

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        return WeightMatcher().solve(problem)


@final
class CallbackMatcher(AbstractDelegatingMatcher):
    """Has an option without a JSON schema."""

    name: Literal["callback"] = "callback"

    callback: Callable[[int], None] | None = None
    """Called after every sweep."""


class Handle:
    """A class without a pydantic schema."""


@final
class HandleMatcher(AbstractDelegatingMatcher):
    """Has an option of a class without a pydantic schema."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: Literal["handle"] = "handle"

    handle: Handle | None = None
    """A handle."""


class UnfinishedMatcher(Matcher):
    """Has a name but no `_match`."""

    name: Literal["unfinished"] = "unfinished"


@final
class EscapingMatcher(AbstractDelegatingMatcher):
    """Has a name that is a path outside the run folder."""

    name: Literal["../../escaped"] = "../../escaped"


class OtherWeightMatcher(AbstractDelegatingMatcher):
    """Has the name of a built-in matcher."""

    name: Literal["weight"] = "weight"


@final
class ExitingMatcher(Matcher):
    """Ends the program."""

    name: Literal["exiting"] = "exiting"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        raise SystemExit(0)


SameClassName = type(
    "WeightMatcher",
    (AbstractDelegatingMatcher,),
    {
        "__doc__": "Has the class name of a built-in matcher.",
        "__annotations__": {"name": Literal["heavy"]},
        "name": "heavy",
        "__module__": __name__,
    },
)


def plugin_with(*kinds: object) -> ModuleType:
    """Return a plugin whose hook returns these objects."""

    @hookimpl
    def rebasin_matchers() -> object:
        return kinds

    module = ModuleType("bad")
    vars(module)["rebasin_matchers"] = rebasin_matchers
    return module


def registry_with(plugin: ModuleType) -> Registry:
    registry = Registry(external=False)
    registry.manager.register(plugin, name="bad")
    return registry


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Return a function that creates a registry with one external plugin, loaded by the given function."""

    def make(load: Callable[[EntryPoint], Any]) -> Registry:
        point = EntryPoint("bad", __name__, discovery.ENTRY_POINT_GROUP)
        monkeypatch.setenv(discovery.SWITCH, "all")
        monkeypatch.setattr(EntryPoint, "load", load)
        monkeypatch.setattr(discovery, "entry_points", lambda group: [point] if group == "rebasin_core" else [])
        registry = Registry()
        monkeypatch.setattr("rebasin_core.plugin.registry.default_registry", lambda: registry)
        return registry

    return make


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (WeightMatcher(), r"expected subclasses of Matcher, got WeightMatcher\(\)"),
        (Registry, "expected subclasses of Matcher, got <class '.*Registry'>"),
        (AbstractDelegatingMatcher, "AbstractDelegatingMatcher has no registered name; add a line"),
        (UnfinishedMatcher, "UnfinishedMatcher is abstract; it does not implement `_match`"),
        (EscapingMatcher, "EscapingMatcher is registered as '../../escaped'; expected a name of letters, digits"),
        (CallbackMatcher, "CallbackMatcher has options that a JSON schema cannot describe, `callback`: .*Callable"),
        (HandleMatcher, "HandleMatcher has options that a JSON schema cannot describe, `handle`: .*Handle"),
    ],
)  # fmt: skip
def test_invalid_class_is_named_and_other_classes_are_registered(kind: object, expected: str) -> None:
    registry = registry_with(plugin_with(kind))
    with pytest.warns(BrokenPluginWarning, match=f"bad registered by hand is ignored: rebasin_matchers .*{expected}"):
        names = registry.names("matcher")
    assert names == Registry(external=False).names("matcher")
    assert registry.build("matcher", "weight") == WeightMatcher()
    assert run_schema({family: registry.classes(family) for family in FAMILIES})


def test_hook_that_returns_a_class_instead_of_a_list_is_reported() -> None:
    module = plugin_with()
    vars(module)["rebasin_matchers"] = hookimpl(specname="rebasin_matchers")(lambda: AbstractDelegatingMatcher)
    with pytest.warns(BrokenPluginWarning, match=r"expected a list of classes, got <class .*AbstractDelegatingMatcher"):
        registry_with(module).names("matcher")


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), GeneratorExit()])
def test_exit_on_import_is_caught(installed: Callable[..., Registry], error: BaseException) -> None:
    def load(_: EntryPoint) -> ModuleType:
        raise error

    with pytest.warns(BrokenPluginWarning, match=f"unknown distribution . is ignored: {type(error).__name__}"):
        registry = installed(load)
    assert registry.build("matcher", "weight") == WeightMatcher()


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), GeneratorExit()])
def test_exit_in_a_hook_is_caught(error: BaseException) -> None:
    module = plugin_with()

    @hookimpl
    def rebasin_matchers() -> list[type]:
        raise error

    vars(module)["rebasin_matchers"] = rebasin_matchers
    registry = registry_with(module)
    with pytest.warns(BrokenPluginWarning, match=f"rebasin_matchers failed: {type(error).__name__}"):
        assert registry.build("matcher", "weight") == WeightMatcher()


def test_exit_in_a_component_breaks_only_its_laws() -> None:
    verdicts = run_checks("bad", registry=registry_with(plugin_with(ExitingMatcher)))
    # A matcher that may use the task satisfies the law on tasks without being run.
    assert {name for name, verdict in verdicts.items() if verdict.outcome == "holds"} == {"matcher:exiting:task"}
    broken = [verdict for verdict in verdicts.values() if verdict.outcome != "holds"]
    assert {(verdict.outcome, verdict.reason) for verdict in broken} == {("broken", "raised SystemExit: 0")}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Install the default handler of Ctrl-C, which test workers ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_during_loading_is_raised(installed: Callable[..., Registry]) -> None:
    def load(_: EntryPoint) -> ModuleType:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        installed(load)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_keyboard_interrupt_raised_by_a_plugin_is_caught(installed: Callable[..., Registry]) -> None:
    def load(_: EntryPoint) -> ModuleType:
        raise KeyboardInterrupt

    with pytest.warns(BrokenPluginWarning, match="is ignored: KeyboardInterrupt"):
        registry = installed(load)
    assert registry.build("matcher", "weight") == WeightMatcher()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class UnreadableError(Exception):
    """Cannot be converted to a string."""

    @override
    def __str__(self) -> str:
        raise RuntimeError


class Endless(list[object]):  # ruff: ignore[subclass-builtin] - tested here
    """An infinite list."""

    @override
    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(WeightMatcher)


def raising() -> object:
    raise UnreadableError


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (raising, "UnreadableError: .message not available"),
        (lambda: itertools.repeat(WeightMatcher), "expected a list of classes, got repeat"),
        (lambda: Endless([]), "expected at most 1000 classes, got more"),
    ],
)
def test_hooks_with_infinite_results_are_reported(hook: Callable[[], object], expected: str) -> None:
    module = plugin_with()
    vars(module)["rebasin_matchers"] = hookimpl(specname="rebasin_matchers")(hook)
    registry = registry_with(module)
    with pytest.warns(BrokenPluginWarning, match=expected):
        names = registry.names("matcher")
    assert names == Registry(external=False).names("matcher")


def test_hook_with_another_function_name_is_registered() -> None:
    module = ModuleType("other_names")
    vars(module)["matchers_of_mine"] = hookimpl(specname="rebasin_matchers")(lambda: [SameClassName])
    registry = registry_with(module)
    assert "heavy" in registry.names("matcher")
    assert [status.error for status in registry.plugins] == [None, None]


def test_too_long_names_are_reported() -> None:
    members = {"__doc__": "Long.", "__annotations__": {"name": str}, "name": "x" * 250, "__module__": __name__}
    registry = registry_with(plugin_with(type("LongMatcher", (AbstractDelegatingMatcher,), members)))
    with pytest.warns(BrokenPluginWarning, match=r"LongMatcher is registered as 'xxx.*at most 100 characters"):
        registry.names("matcher")


@pytest.mark.parametrize(
    ("requires", "error"),
    [
        ("rebasin-core>=99", "it requires rebasin-core>=99, but 0.1.0 is installed"),
        ("Rebasin_Core[plot]<0.1", "it requires rebasin-core<0.1, but 0.1.0 is installed"),
        ('rebasin-core>=99; python_version < "3"', None),
        ('rebasin-core>=99; extra == "future"', None),
        ("rebasin-core>=0.1,<0.2", None),
        ("something strange !!", None),
    ],
)
def test_plugin_for_another_version_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requires: str, error: str | None
) -> None:
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\nRequires-Dist: {requires}\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text("[rebasin_core]\nelsewhere = elsewhere_plugin\n")
    (tmp_path / "elsewhere_plugin.py").write_text(
        "from rebasin_core import hookimpl\n@hookimpl\ndef rebasin_matchers():\n    return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(discovery.SWITCH, "elsewhere")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = next(status for status in Registry().plugins if status.distribution == "elsewhere")
    assert (found.error or "").startswith(error or "")
    assert (found.error is None) == (error is None)
    assert len([w for w in given if w.category is BrokenPluginWarning]) == (error is not None)


@pytest.mark.parametrize(("value", "reported"), [("", 0), ("ALL", 0), ("None", 0), ("nonee", 1), ("al", 1)])
def test_values_of_the_environment_variable(monkeypatch: pytest.MonkeyPatch, value: str, reported: int) -> None:
    monkeypatch.setenv(discovery.SWITCH, value)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        registry = Registry()
    assert len([w for w in given if "did you mean" in str(w.message)]) == reported
    assert ("rank" in registry.names("matcher")) == (value in {"", "ALL"})


def test_name_conflict_raises_and_is_not_in_the_schema(installed: Callable[..., Registry]) -> None:
    registry = installed(lambda _: plugin_with(OtherWeightMatcher))
    with pytest.raises(PluginError, match=r"'weight' is registered by rebasin-core .* and unknown distribution \?"):
        registry.build("matcher", "weight")
    done = CliRunner().invoke(MAIN.cli, ["schema"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["$defs"]["matcher"]["oneOf"][0]["enum"] == [
        name for name in registry.names("matcher") if name != "weight"
    ]


def test_classes_of_one_name_do_not_replace_each_other_in_the_schema() -> None:
    registry = registry_with(plugin_with(SameClassName))
    schema = run_schema({family: registry.classes(family) for family in FAMILIES})
    definitions = schema["$defs"]
    keys = {choice["$ref"].removeprefix("#/$defs/") for choice in definitions["matcher"]["oneOf"][1:]}
    assert {definitions[key]["properties"]["name"]["const"] for key in keys} == set(registry.names("matcher"))


def test_a_typing_error_in_the_environment_variable_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(discovery.SWITCH, "rebasin-exmaple,REBASIN_example")
    with pytest.warns(BrokenPluginWarning, match="rebasin-exmaple .*did you mean 'rebasin-example'"):
        registry = Registry()
    assert "rank" in registry.names("matcher")
