"""Recipes as validated values."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from rebasin_core.config.recipe import AlignRecipe, MergeRecipe, as_bytes
from rebasin_core.config.schema import recipe_schema
from rebasin_core.matchers import WeightMatcher
from rebasin_core.plugin.registry import FAMILIES, Registry, default_registry


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("8G", 8 * 10**9),
        ("0.5TB", 5 * 10**11),
        ("500MB", 5 * 10**8),
        ("2KiB", 2000),
        (" 12 ", 12),
        ("12B", 12),
        (7, 7),
        (None, None),
    ],
)
def test_sizes_are_powers_of_a_thousand(text: object, size: object) -> None:
    assert as_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "8 PB", "8GBs", "1,5GB", "\u0663GB", "0x10"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 8GB"):
        as_bytes(text)


def test_recipes_are_equal_to_those_of_their_json() -> None:
    given = AlignRecipe(
        reference=Path("a"), candidate=Path("b"), output=Path("c.safetensors"), matcher=WeightMatcher(max_sweeps=3),
        memory="8GB", freeze=("head.*",),
    )  # fmt: skip
    document = json.loads(given.canonical_json())
    assert document["memory"] == 8 * 10**9
    assert document["command"] == "align"

    lookup = default_registry().strategy_class
    assert AlignRecipe.model_validate(document, context={"lookup": lookup}) == given


def test_the_schema_has_both_commands_and_every_component(builtin_registry: Registry) -> None:
    schema = recipe_schema({family: builtin_registry.classes(family) for family in FAMILIES})
    assert schema["anyOf"] == [{"$ref": "#/$defs/AlignRecipe"}, {"$ref": "#/$defs/MergeRecipe"}]
    for kind in (AlignRecipe, MergeRecipe):
        properties = schema["$defs"][kind.__name__]["properties"]
        assert properties.keys() == kind.model_fields.keys()
        assert {"type": "string", "examples": ["8GB"]} in properties["max_shard"]["anyOf"]
        assert properties["matcher"]["$ref"] == "#/$defs/matcher"
    names = schema["$defs"]["merge_method"]["oneOf"][0]["enum"]
    assert set(names) == set(builtin_registry.names("merge_method"))
    text = json.dumps(schema)
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', text):
        assert functools.reduce(lambda part, key: part[key], reference.split("/"), schema)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"memory": 0}, "greater than 0"),
        ({"memory": "0GB"}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"dtype": "int8"}, "float64"),
        ({"max_shard": "big"}, "expected a size"),
        ({"outputs": "c"}, "did you mean 'output'"),
        ({"names": {"mode": "loose"}}, "lenient"),
        ({"command": "merge"}, "align"),
    ],
)
def test_wrong_values_are_rejected(entries: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AlignRecipe.model_validate({"reference": "a", "candidate": "b", **entries})


def test_a_merge_has_at_least_two_checkpoints_and_weights_of_two_forms() -> None:
    with pytest.raises(ValidationError, match="at least 2"):
        MergeRecipe.model_validate({"checkpoints": ["a"]})
    for weights, expected in (([1, 2], (1.0, 2.0)), ({"*": [1, 2]}, {"*": (1.0, 2.0)}), (None, None)):
        assert MergeRecipe.model_validate({"checkpoints": ["a", "b"], "weights": weights}).weights == expected
