"""Overrides of options, by dotted names."""

from __future__ import annotations

from typing import Any, TypeAlias

from rebasin_core.errors import ConfigError, nearest

Overrides: TypeAlias = dict[str, Any]
"""New values by the dotted names of options, such as ``inference.epochs``. A component that is given completely
replaces the previous one and all its options."""


def overridden(document: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return options in which some are replaced.

    Args:
        document: Options as plain JSON; not changed.
        overrides: New values by dotted names; numbers are indices of lists. Values of whole components are applied
            before those of their options.

    Returns:
        The new options, not validated. Unchanged parts are shared with the given ones.

    Raises:
        ConfigError: If a name leads into a value that has no options.

    Examples:
        >>> overridden({"inference": {"name": "map", "epochs": 5}}, {"inference.epochs": 8})
        {'inference': {'name': 'map', 'epochs': 8}}
    """
    found: Any = document
    for name, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        found = _replaced(found, name.split("."), value, name)
    return dict(found)


def _replaced(part: Any, keys: list[str], value: Any, name: str) -> Any:  # ruff: ignore[any-type] - JSON
    if not keys:
        return value
    first = keys[0]
    rest = keys[1:]
    if isinstance(part, dict):
        if rest and first not in part:
            message = f"{name}: no option `{first}`; {nearest(first, part)}"
            raise ConfigError(message)
        return {**part, first: _replaced(part.get(first), rest, value, name)}
    if isinstance(part, list) and first.isdecimal() and int(first) < len(part):
        index = int(first)
        return [*part[:index], _replaced(part[index], rest, value, name), *part[index + 1 :]]
    if isinstance(part, str) and rest == [] and part != "auto":  # a component without options, given by its name
        return {"name": part, first: value}
    parent = name.removesuffix(".".join(["", *keys]))
    message = f"{name}: `{parent}` is {part!r}, without an option `{first}`; override `{parent}` as a whole"
    raise ConfigError(message)
