"""The JSON schema of run files, with every registered strategy in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.config.run import RunConfig
from rebasin_core.strategy import FAMILY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def run_schema(strategies: Mapping[str, Iterable[type[Any]]]) -> dict[str, Any]:
    """Return the JSON schema of a run file.

    Args:
        strategies: For every family, the classes that are registered.

    Returns:
        A JSON schema (draft 2020-12): where a strategy of a family is expected, its name, or any of its option sets.
    """
    schema = RunConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    for family, kinds in strategies.items():
        choices: list[dict[str, Any]] = []
        names: list[str] = []
        for kind in kinds:
            # Classes of two packages may have one name. Definitions of a class's own options stay within its own.
            key = kind.__name__ if kind.__name__ not in definitions else f"{kind.__module__}.{kind.__qualname__}"
            part = kind.model_json_schema(ref_template=f"#/$defs/{key}/$defs/{{model}}")
            part["required"] = sorted({*part.get("required", []), "name"})
            definitions[key] = part
            choices.append({"$ref": f"#/$defs/{key}"})
            names.append(kind.model_fields["name"].default)
        # Any strategy may be given by its bare name, which takes all defaults.
        definitions[family] = {"oneOf": [{"enum": names}, *choices], "title": family}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_linked(schema)}


def _linked(part: Any) -> Any:  # ruff: ignore[any-type] - any part of a schema
    """Return a schema in which any strategy of a family is a reference to the family's definition."""
    if isinstance(part, list):
        return [_linked(item) for item in part]
    if not isinstance(part, dict):
        return part
    linked = {key: _linked(value) for key, value in part.items() if key != FAMILY_KEY}
    return {**linked, "$ref": f"#/$defs/{part[FAMILY_KEY]}"} if FAMILY_KEY in part else linked
