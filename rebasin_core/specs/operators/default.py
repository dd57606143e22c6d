"""The default rules of `rebasin_core.trace_spec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs.operators.base import Rules

_PROVIDERS: list[Callable[[], Rules]] = []


def find_rules_by(provider: Callable[[], Rules]) -> None:
    """Set the function that returns the default rules: the registry of installed plugins sets its own.

    Args:
        provider: Function that returns the rules of all plugins, by operator name.
    """
    _PROVIDERS[:] = [provider]


def default_rules() -> Rules:
    """Return the rules of all installed plugins, or the built-in rules if no provider is set."""
    return _PROVIDERS[0]() if _PROVIDERS else BUILT_IN_RULES
