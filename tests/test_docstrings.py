"""Docstrings of options: in the JSON schema, under inheritance, and read only on demand."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from pydantic import Field

import rebasin_core as rc
from rebasin_core.config.schema import run_schema
from rebasin_core.strategy import Options
from tests.sorters import PlainSorter, TwiceSorter


class Described(Options):
    """Options with descriptions."""

    low: float = 1.0
    """The lower one."""

    high: float = Field(2.0, description="The higher one.")
    """Not this."""


def test_schema_contains_the_docstrings_and_its_references_resolve(builtin_registry: rc.Registry) -> None:
    kinds = {
        family: [builtin_registry.strategy_class(family, name) for name in builtin_registry.names(family)]
        for family in rc.plugin.registry.FAMILIES
    }
    schema = run_schema(kinds | {"sorter": [PlainSorter, TwiceSorter]})
    definitions = schema["$defs"]
    limit = definitions["PlainSorter"]["properties"]["limit"]
    assert limit["description"] == "Values above this one are dropped."
    assert definitions["PlainSorter"]["description"].startswith("Sorts values.")
    assert definitions["PlainSorter"]["required"] == ["name"]
    assert definitions["TwiceSorter"]["required"] == ["first", "name", "others"]
    assert definitions["TwiceSorter"]["properties"]["first"]["$ref"] == "#/$defs/sorter"
    assert definitions["TwiceSorter"]["properties"]["others"]["items"]["$ref"] == "#/$defs/sorter"
    assert definitions["sorter"]["oneOf"] == [
        {"enum": ["plain", "twice"]},
        {"$ref": "#/$defs/PlainSorter"},
        {"$ref": "#/$defs/TwiceSorter"},
    ]
    assert schema["properties"]["architecture"]["$ref"] == "#/$defs/architecture"
    assert schema["properties"]["data"]["$ref"] == "#/$defs/dataset"
    assert definitions["MLPArchitecture"]["properties"]["hidden"]["description"].startswith("Widths of the hidden")
    text = json.dumps(schema)
    assert "x-family" not in text
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        assert functools.reduce(lambda part, key: part[key], reference.split("/"), schema)


def test_descriptions_are_those_of_the_most_derived_declaration() -> None:
    class Declared(Described):
        low: float = 2.0

    assert Described.descriptions() == {"low": "The lower one.", "high": "The higher one."}
    assert Declared.descriptions() == {"high": "The higher one."}
    made = type("Made", (Options,), {"__annotations__": {"size": int}, "size": 1})
    assert issubclass(made, Options)
    assert made.descriptions() == {}


def test_import_reads_no_source_code() -> None:
    code = (
        "import inspect, torch; from unittest.mock import patch\n"
        "with patch.object(inspect, 'getsource', side_effect=AssertionError), "
        "patch.object(inspect, 'getsourcelines', side_effect=AssertionError):\n    import rebasin_core.config.run"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
