"""The default rules of `rebasin_core.trace_spec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.operators.catalogue import BUILT_IN_FAMILIES, BUILT_IN_RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rebasin_core.specs.operators.base import OperatorRules, Rules, Sights

_PROVIDERS: list[Callable[[], Rules]] = []
_FAMILY_PROVIDERS: list[Callable[[], Sequence[type[OperatorRules]]]] = []


def find_rules_by(
    provider: Callable[[], Rules], families: Callable[[], Sequence[type[OperatorRules]]] | None = None
) -> None:
    """Set the functions that return the default rules: the registry of installed plugins sets its own.

    Args:
        provider: Function that returns the rules of all plugins, by operator name.
        families: Function that returns the families of all plugins; the built-in families if None.
    """
    _PROVIDERS[:] = [provider]
    _FAMILY_PROVIDERS[:] = [] if families is None else [families]


def default_rules() -> Rules:
    """Return the rules of all installed plugins, or the built-in rules if no provider is set."""
    return _PROVIDERS[0]() if _PROVIDERS else BUILT_IN_RULES


def sights_of(rules: Rules) -> Sights:
    """Return how the operators see the units of axes, as their rules state it.

    Args:
        rules: Rules by operator name.

    Returns:
        The sights of all families, without operators that have another rule here than in their family.
    """
    families = _FAMILY_PROVIDERS[0]() if _FAMILY_PROVIDERS else BUILT_IN_FAMILIES
    return {
        name: sight
        for family in families
        for name, sight in family.sights.items()
        if rules.get(name) is family.rules.get(name)
    }
