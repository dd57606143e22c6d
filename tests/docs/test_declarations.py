"""The API pages show the options of strategies, and the methods that authors of plugins write."""

from __future__ import annotations

from pathlib import Path

import pytest
from griffe import Attribute, Class, Function, Module, load, load_extensions

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"


@pytest.fixture(scope="module")
def package() -> Module:
    hooks = [str(HOOKS / name) for name in ("literals.py", "declarations.py")]
    extensions = load_extensions("griffe_inherited_docstrings", *hooks)
    found = load("rebasin_core", extensions=extensions, docstring_parser="google")
    assert isinstance(found, Module)
    return found


def described(package: Module, path: str) -> dict[str, tuple[str, object]]:
    """Return the description and the default of every option of a class."""
    cls = package[path]
    assert isinstance(cls, Class)
    assert cls.docstring
    sections = [section for section in cls.docstring.parsed if section.title == "Options:"]
    return {row.name: (row.description, row.value) for section in sections for row in section.value}


def test_inherited_options_are_described_with_their_defaults(package: Module) -> None:
    options = described(package, "matchers.weight.WeightMatcher")
    assert options["max_sweeps"] == ("Maximum number of sweeps over all groups.", "100")
    assert options["name"][1] == "'weight'"
    assert {"assignment", "start"} <= options.keys()


def test_bounds_and_defaults_in_annotations_are_shown(package: Module) -> None:
    description, default = described(package, "assignment.auction.AuctionAssignment")["max_unassigned"]
    assert description.endswith("(at least 0 and at most 1)")
    assert default == "0.02"
    run = described(package, "config.run.RunConfig")
    assert run["inference"][1] == "MeanFieldVI()"
    assert run["likelihood"][1] == "None"
    assert run["data"][1] is None


def test_abstract_methods_are_shown_and_other_private_members_are_not(package: Module) -> None:
    assert "_match" in package["matchers.base.Matcher"].members
    assert "_match" not in package["matchers.frank_wolfe.FrankWolfeMatcher"].members
    assert not [name for name in package["posteriors.barycenters"].members if name.startswith("_")]


def test_literal_types_are_shown_by_their_values_and_others_by_name(package: Module) -> None:
    match = package["api.matching.match"]
    assert isinstance(match, Function)
    assert str(match.parameters["on_interrupt"].annotation) == "Literal['raise', 'return']"
    assert str(match.parameters["reference"].annotation) == "PosteriorLike"
    batches = package["evaluation.batches.Batches"]
    assert isinstance(batches, Attribute)
    assert str(batches.value) == "Iterable[Any]"
