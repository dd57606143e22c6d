"""The declaration of a strategy: signature, validation, run-file entry, schema, equality and identity."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

import rebasin_core as rc
from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.errors import ConfigError, UnknownNameError
from rebasin_core.evaluation import CategoricalLikelihood
from rebasin_core.matchers import ChainMatcher, KLMatcher, PortfolioMatcher, RestartsMatcher, WeightMatcher
from rebasin_core.specs import TableSpecFactory
from rebasin_core.strategy import Strategy
from tests.sorters import PlainSorter, Sorter, TwiceSorter, sorter

EQUAL: dict[str, tuple[Strategy, Strategy]] = {
    "explicit default": (WeightMatcher(max_sweeps=100), WeightMatcher()),
    "name": (rc.Matcher.of("weight"), WeightMatcher()),
    "mapping": (rc.Matcher.of({"name": "weight", "max_sweeps": 5}), WeightMatcher(max_sweeps=5)),
    "instance": (rc.Matcher.of(WeightMatcher(max_sweeps=5)), WeightMatcher(max_sweeps=5)),
    "nested name": (RestartsMatcher(matcher="kl"), RestartsMatcher(matcher=KLMatcher())),
    "nested mapping": (
        RestartsMatcher(matcher={"name": "weight", "assignment": "scipy"}),
        RestartsMatcher(matcher=WeightMatcher(assignment=rc.assignment.ScipyAssignment())),
    ),
    "list of names": (ChainMatcher(matchers=["kl", "weight"]), ChainMatcher(matchers=(KLMatcher(), WeightMatcher()))),
    "list for a tuple": (
        rc.architectures.MLPArchitecture(hidden=[3, 4]),
        rc.architectures.MLPArchitecture(hidden=(3, 4)),
    ),
    "integer for a number": (PlainSorter(limit=3), PlainSorter(limit=3.0)),
    "negative zero": (PlainSorter(low=-0.0), PlainSorter(low=0.0)),
    "order of keys": (TableSpecFactory(table={"a": "x", "b": "-"}), TableSpecFactory(table={"b": "-", "a": "x"})),
    "text for a path": (PlainSorter(folder="a/b"), PlainSorter(folder=Path("a") / "b")),
}


@pytest.mark.parametrize("case", EQUAL)
def test_equal_options_have_equal_hashes_and_canonical_json(case: str) -> None:
    one, other = EQUAL[case]
    assert one == other
    assert hash(one) == hash(other)
    assert one.canonical_json() == other.canonical_json()
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (WeightMatcher(), WeightMatcher(max_sweeps=99)),
        (WeightMatcher(), rc.matchers.WassersteinMatcher()),  # the same options in another class
        (RestartsMatcher(matcher="weight"), RestartsMatcher(matcher="kl")),
        (rc.assignment.ScipyAssignment(), CategoricalLikelihood()),
        (WeightMatcher(), {"name": "weight"}),
    ],
)
def test_different_options_or_classes_are_not_equal(one: Strategy, other: object) -> None:
    assert one != other
    assert isinstance(other, dict) or hash(one) != hash(other)


def test_canonical_json_is_sorted_complete_and_compact() -> None:
    assert WeightMatcher(max_sweeps=5).canonical_json() == (
        '{"assignment":{"name":"auto"},"max_sweeps":5,"memory":null,"name":"weight","start":"greedy",'
        '"symmetry":"permutation","tolerance":1e-06}'
    )
    assert json.loads(
        rc.architectures.VGGArchitecture().canonical_json()
    ) == rc.architectures.VGGArchitecture().model_dump(mode="json")


@pytest.mark.parametrize(
    "strategy",
    [
        PortfolioMatcher(matchers=["weight", {"name": "restarts", "matcher": "kl"}]),
        TableSpecFactory(table={"a": "x, -"}, sizes={"x": 3}),
        PlainSorter(limit=-math.inf, weights={"b": math.inf, "a": 1}),
        TwiceSorter(first=PlainSorter(limit=5), others=[PlainSorter()]),
    ],
    ids=repr,
)
def test_canonical_json_is_parsed_back(strategy: Strategy) -> None:
    def reject(constant: str) -> float:
        raise AssertionError(constant)

    written = json.loads(strategy.canonical_json(), parse_constant=reject)
    read = sorter(written) if strategy.family == "sorter" else type(strategy).model_validate(written)
    assert read == strategy


def test_repr_shows_options_that_differ_from_the_defaults() -> None:
    assert repr(WeightMatcher()) == "WeightMatcher()"
    assert repr(WeightMatcher(max_sweeps=100, start="identity")) == "WeightMatcher(start='identity')"
    nested = TwiceSorter(first=PlainSorter(), others=[PlainSorter(descending=True)])
    assert repr(nested) == "TwiceSorter(first=PlainSorter(), others=(PlainSorter(descending=True),))"
    assert str(nested) == repr(nested)


@pytest.mark.parametrize("strategy", [*(pair[0] for pair in EQUAL.values()), PlainSorter(limit=math.nan)], ids=repr)
def test_copies_and_pickles_are_equal(strategy: Strategy) -> None:
    if not isinstance(strategy, PlainSorter):
        for copied in (copy.copy(strategy), copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
            assert copied == strategy
            assert type(copied) is type(strategy)
    assert pickle.loads(pickle.dumps(strategy)).canonical_json() == strategy.canonical_json()


def test_options_cannot_be_changed() -> None:
    matcher = WeightMatcher()
    with pytest.raises(
        ConfigError, match=r"`WeightMatcher` are immutable, cannot set `max_sweeps`; `replace\(max_sweeps"
    ):
        matcher.max_sweeps = 3  # type: ignore[misc] # wrong on purpose
    with pytest.raises(ConfigError, match="cannot set `max_sweeps`"):
        del matcher.max_sweeps
    with pytest.raises(ConfigError, match="cannot set `other`"):
        setattr(matcher, "other", 1)  # ruff: ignore[set-attr-with-constant] - there is no such attribute
    assert matcher == WeightMatcher()
    table = {"a": "-"}
    factory = TableSpecFactory(table=table)
    table["b"] = "-"
    assert factory == TableSpecFactory(table={"a": "-"})


# The key in a run file, the options, the location of the error, and the message.
BAD_OPTIONS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "unknown": (
        "matchers",
        {"name": "weight", "momentum": 1},
        "momentum",
        "unknown option; known: 'assignment', 'max_sweeps', 'memory', 'start'",
    ),
    "misspelt": (
        "matchers",
        {"name": "weight", "max_sweep": 3},
        "max_sweep",
        "unknown option; did you mean 'max_sweeps'?",
    ),
    "out of range": ("matchers", {"name": "weight", "max_sweeps": 0}, "max_sweeps", "expected a value greater than 0"),
    "of another type": ("matchers", {"name": "weight", "max_sweeps": "x"}, "max_sweeps", "expected a valid integer"),
    "none of the choices": (
        "matchers",
        {"name": "weight", "start": "up"},
        "start",
        "expected 'best', 'greedy' or 'identity', got 'up'",
    ),
    "in a list": ("architecture", {"name": "mlp", "hidden": [3, 0]}, "hidden[1]", "expected a value greater than 0"),
    "in a mapping": ("spec", {"name": "table", "table": {"a": 3}}, "table.a", "expected a valid string, got 3"),
    "missing": ("data", {"name": "uci"}, "dataset", "is missing"),
    "by a custom validator": (
        "architecture",
        {"name": "cifar_resnet", "depth": 9},
        "depth",
        "expected 6 n + 2 (8, 14, 20, 32, ...), got 9",
    ),
    "two options together": (
        "architecture",
        {"name": "vit", "width": 10, "heads": 3},
        "",
        "expected a width divisible by the number of heads, got 10 and 3",
    ),
    "nested": (
        "matchers",
        {"name": "portfolio", "matchers": ["weight", {"name": "kl", "max_sweeps": 0}]},
        "matchers[1].max_sweeps",
        "expected a value greater than 0, got 0",
    ),
    "nested and misspelt": (
        "matchers",
        {"name": "portfolio", "matchers": ["weight", {"name": "kl", "max_sweep": 1}]},
        "matchers[1].max_sweep",
        "unknown option; did you mean 'max_sweeps'?",
    ),
    "nested unknown name": (
        "matchers",
        {"name": "restarts", "matcher": "wieght"},
        "matcher.name",
        "no matcher 'wieght'; did you mean 'weight'?",
    ),
    "nested twice": (
        "matchers",
        {"name": "chain", "matchers": [{"name": "weight", "assignment": {"name": "auction", "max_unassigned": 2}}]},
        "matchers[0].assignment.max_unassigned",
        "expected a value less than or equal to 1, got 2",
    ),
    "no strategy": (
        "matchers",
        {"name": "restarts", "matcher": 3},
        "matcher",
        "expected the name of a registered matcher",
    ),
}
INTERFACES: dict[str, type[Strategy]] = {
    "data": rc.DataSource,
    "architecture": rc.Architecture,
    "spec": rc.SpecFactory,
    "matchers": rc.Matcher,
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_invalid_options_in_python(case: str) -> None:
    key, options, location, sentence = BAD_OPTIONS[case]
    found = f"{location}: {sentence}" if location else sentence
    interface = INTERFACES[key]
    with pytest.raises(ConfigError) as by_mapping:
        interface.of(options)
    assert str(by_mapping.value).startswith(f"invalid {interface.family}: {found}")
    kind = rc.plugin.registry.default_registry().strategy_class(interface.family, options["name"])
    with pytest.raises(ConfigError) as by_class:
        kind(**{name: value for name, value in options.items() if name != "name"})
    assert str(by_class.value).startswith(f"invalid options of `{kind.__name__}`: {found}")


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_invalid_options_in_a_run_file_are_reported_with_the_line(case: str, builtin_registry: rc.Registry) -> None:
    key, options, _, _ = BAD_OPTIONS[case]
    interface = INTERFACES[key]
    with pytest.raises(ConfigError) as in_python:
        interface.of(options)
    sentence = str(in_python.value).removeprefix(f"invalid {interface.family}: ")
    document: dict[str, Any] = {"data": "digits", "architecture": "mlp"}
    document[key] = [options] if key == "matchers" else options
    lines = [f'"{name}": {json.dumps(value)}' for name, value in document.items()]
    text = "{\n" + ",\n".join(lines) + "\n}"
    line = 2 + list(document).index(key)
    with pytest.raises(ConfigError) as in_file:
        read_config(rc.RunConfig, Document.parse(text, "run.json"), builtin_registry.strategy_class)
    prefix = "matchers[0]" if key == "matchers" else key
    dot = "." if BAD_OPTIONS[case][2] else ": "
    assert str(in_file.value) == f"run.json:{line}: {prefix}{dot}{sentence}"


def test_nested_options_are_reported_with_their_own_line(builtin_registry: rc.Registry) -> None:
    text = """data: digits
architecture: mlp
matchers:
- weight
- name: chain
  matchers:
  - kl
  - name: weight
    max_sweeps: 0
"""
    with pytest.raises(ConfigError) as error:
        read_config(rc.RunConfig, Document.parse(text, "run.yaml"), builtin_registry.strategy_class)
    expected = "run.yaml:9: matchers[1].matchers[1].max_sweeps: expected a value greater than 0, got 0"
    assert str(error.value) == expected


def test_all_problems_are_reported_once() -> None:
    with pytest.raises(ConfigError) as error:
        sorter({"name": "twice", "first": {"name": "plain", "low": 2, "hihg": 1}, "others": ["plian"], "times": 0})
    assert str(error.value) == (
        "invalid sorter: first.low: expected a value less than or equal to 1, got 2; "
        "first.hihg: unknown option; did you mean 'high'?; "
        "others[0].name: no sorter 'plian'; "
        "times: expected a value greater than 0, got 0"
    )
    with pytest.raises(ConfigError, match=r"^invalid sorter: others: .*at least 1 item"):
        sorter({"name": "twice", "first": "plain", "others": []})


@pytest.mark.parametrize("value", [3, None, {"max_sweeps": 3}, {"name": 3}, [], KLMatcher])
def test_values_of_other_types_raise(value: object) -> None:
    with pytest.raises(
        ConfigError, match="expected the name of a registered matcher, a mapping with `name` and options, or an"
    ):
        rc.Matcher.of(value)


def test_strategy_of_another_family_raises() -> None:
    with pytest.raises(ConfigError, match=r"an instance of `Matcher`, got CategoricalLikelihood\(\)"):
        RestartsMatcher(matcher=CategoricalLikelihood())


def test_unknown_name_at_the_top_level_raises_unknown_name_error() -> None:
    with pytest.raises(UnknownNameError, match="no matcher 'wieght'; did you mean 'weight'"):
        rc.Matcher.of("wieght")


def test_interface_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Sorter(name="plain")  # type: ignore[abstract] # wrong on purpose


def test_the_name_is_fixed() -> None:
    assert PlainSorter.registered_name() == "plain"
    with pytest.raises(ConfigError, match="name: expected 'plain', got 'other'"):
        PlainSorter(name="other")
    with pytest.raises(ConfigError, match=r"Sorter has no registered name; add a line: name: Literal"):
        Sorter.registered_name()


def test_third_party_strategy_with_docstrings_of_options() -> None:
    twice = sorter({"name": "twice", "first": "plain", "others": [{"name": "plain", "descending": True}]})
    assert twice.sort([2.0, 3.0, 1.0]) == [3.0, 2.0, 1.0]
    with pytest.raises(ConfigError, match=r"expected `low` to be at most `high`, got 0\.5 and 0\.1"):
        PlainSorter(low=0.5, high=0.1)
    descriptions = {name: PlainSorter.descriptions().get(name) for name in PlainSorter.model_fields if name != "name"}
    assert descriptions["descending"] == "Whether the largest value comes first."
    assert all(descriptions.values())


def test_options_are_replaced_and_validated() -> None:
    assert PlainSorter(low=0.25).replace(descending=True) == PlainSorter(low=0.25, descending=True)
    with pytest.raises(ConfigError, match="unknown option"):
        PlainSorter().replace(descend=True)
    with pytest.raises(ConfigError, match=r"expected `low` to be at most `high`"):
        PlainSorter(high=0.1).replace(low=0.5)


def test_concrete_class_accepts_its_own_name() -> None:
    assert rc.matchers.WeightMatcher.of("weight") == rc.matchers.WeightMatcher()
    assert PlainSorter.of("plain") == PlainSorter()  # which is not registered
    with pytest.raises(ConfigError, match="name: expected 'weight', got 'sinkhorn'"):
        rc.matchers.WeightMatcher.of("sinkhorn")
    with pytest.raises(rc.errors.UnknownNameError, match="did you mean 'weight'"):
        rc.matchers.WeightMatcher.of("wieght")
