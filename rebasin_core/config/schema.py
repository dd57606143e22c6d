"""The JSON schemas of run files, study files and recipes, including all registered components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from rebasin_core.config.recipe import AlignRecipe, MergeRecipe
from rebasin_core.config.run import RunConfig
from rebasin_core.config.study import StudyConfig
from rebasin_core.strategy import FAMILY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def run_schema(strategies: Mapping[str, Iterable[type[Any]]]) -> dict[str, Any]:
    """Return the JSON schema of a run file.

    Args:
        strategies: Registered classes by family.

    Returns:
        A JSON schema (draft 2020-12). A component of a family is either a registered name, or an object with ``name``
        and options.
    """
    return _with_components(RunConfig.model_json_schema(), strategies)


def study_schema(strategies: Mapping[str, Iterable[type[Any]]]) -> dict[str, Any]:
    """Return the JSON schema of a study file.

    Args:
        strategies: Registered classes by family.

    Returns:
        A JSON schema (draft 2020-12). The base is the path of a run file, or its content. Matchers and barriers are
        lists, or mappings by label.
    """
    schema = StudyConfig.model_json_schema()
    options = schema["properties"]
    options["base"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/RunConfig"}]} | _described(options["base"])
    options["seeds"] = {"anyOf": [{"type": "integer", "minimum": 1}, options["seeds"]]} | _described(options["seeds"])
    for name in ("matchers", "barriers"):
        component = options[name]["additionalProperties"]
        either = [{"type": "object", "additionalProperties": component}, {"type": "array", "items": component}]
        options[name] = {"anyOf": either} | _described(options[name])
    return _with_components(schema, strategies)


def recipe_schema(strategies: Mapping[str, Iterable[type[Any]]]) -> dict[str, Any]:
    """Return the JSON schema of a recipe: an alignment or a merge of checkpoints.

    Args:
        strategies: Registered classes by family.

    Returns:
        A JSON schema (draft 2020-12).
    """
    return _with_components(TypeAdapter(AlignRecipe | MergeRecipe).json_schema(), strategies)


def _described(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("description", "title") if key in part}


def _with_components(schema: dict[str, Any], strategies: Mapping[str, Iterable[type[Any]]]) -> dict[str, Any]:
    """Return a schema with the definitions of all components."""
    definitions = schema.setdefault("$defs", {})
    for family, kinds in strategies.items():
        choices: list[dict[str, Any]] = []
        names: list[str] = []
        for kind in kinds:
            # Classes of different packages can have equal names. Nested definitions stay inside the class's entry.
            key = kind.__name__ if kind.__name__ not in definitions else f"{kind.__module__}.{kind.__qualname__}"
            part = kind.model_json_schema(ref_template=f"#/$defs/{key}/$defs/{{model}}")
            part["required"] = sorted({*part.get("required", []), "name"})
            definitions[key] = part
            choices.append({"$ref": f"#/$defs/{key}"})
            names.append(kind.model_fields["name"].default)
        # A bare name selects the default options.
        definitions[family] = {"oneOf": [{"enum": names}, *choices], "title": family}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_linked(schema)}


def _linked(part: Any) -> Any:  # ruff: ignore[any-type] - any part of a schema
    """Return a schema in which each component is a reference to the definition of its family."""
    if isinstance(part, list):
        return [_linked(item) for item in part]
    if not isinstance(part, dict):
        return part
    linked = {key: _linked(value) for key, value in part.items() if key != FAMILY_KEY}
    return {**linked, "$ref": f"#/$defs/{part[FAMILY_KEY]}"} if FAMILY_KEY in part else linked
