"""The rules that are used where none are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs.operators.base import Rules

_PROVIDERS: list[Callable[[], Rules]] = []


def find_rules_by(provider: Callable[[], Rules]) -> None:
    """Set how rules are found where none are given: by the registry of installed plugins.

    Args:
        provider: Returns the rules of all plugins, by operator name.
    """
    _PROVIDERS[:] = [provider]


def default_rules() -> Rules:
    """Return the rules of all installed plugins, or the built-in ones before plugins are known."""
    return _PROVIDERS[0]() if _PROVIDERS else BUILT_IN_RULES
