"""The JSON schema of run files, including all registered components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.config.run import RunConfig
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
    schema = RunConfig.model_json_schema()
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
