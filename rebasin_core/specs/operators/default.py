"""The default rules of `rebasin_core.trace_spec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.providers import import_providers
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.recurrent import RecurrentRules
from rebasin_core.specs.unification.relation import Sight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rebasin_core.specs.operators.base import Rules, Sights
    from rebasin_core.specs.operators.call import Call

_PROVIDERS: list[Callable[[], Rules]] = []


def find_rules_by(provider: Callable[[], Rules]) -> None:
    """Set the function that returns the default rules: the registry of installed plugins sets its own.

    Args:
        provider: Function that returns the rules of all plugins, by operator name.
    """
    _PROVIDERS[:] = [provider]


def default_rules() -> Rules:
    """Return the rules of all installed plugins."""
    if not _PROVIDERS:
        import_providers()
    return _PROVIDERS[0]()


def sights_of(rules: Rules) -> Sights:
    """Return how the operators see the units of axes, as the families of their rules state it.

    Args:
        rules: Rules by operator name, of any family that is defined: it need not be registered.

    Returns:
        The sights of all families, without operators that have another rule here than in their family.
    """
    return {
        name: sight
        for family in _families(OperatorRules)
        for name, sight in family.sights.items()
        if rules.get(name) is family.rules.get(name)
    }


def constants_of(rules: Rules) -> dict[str, tuple[float, float]]:
    """Return the constants $c$ of operators with $f(-u) = c - f(u)$.

    Args:
        rules: Rules by operator name.

    Returns:
        The constants and slopes $f'(0)$ that all families state, without operators that have another rule here than in
        their family.
    """
    return {
        name: constant
        for family in _families(OperatorRules)
        for name, constant in family.constants.items()
        if rules.get(name) is family.rules.get(name)
    }


def sight_of(call: Call, sights: Sights) -> Sight:
    """Return how the operator of a call sees the units of the axes that it keeps.

    Args:
        call: The call.
        sights: The sights of all operators. That of ``relu`` also applies to ``relu_``.

    Returns:
        The sight; `Sight.ANY` if the result has integers, or further outputs are used that are not states of a
        recurrent layer, but indices or statistics.
    """
    sight = sights.get(call.operator) or sights.get(call.operator.removesuffix("_")) or Sight.ANY
    is_to_integers = getattr(call.arguments.get("dtype"), "is_floating_point", True) is False
    has_others = bool(call.used - {0}) and sight is not Sight.COPY and call.operator not in RecurrentRules.rules
    return Sight.ANY if is_to_integers or has_others else sight


def _families(base: type[OperatorRules]) -> Iterator[type[OperatorRules]]:
    for family in base.__subclasses__():
        yield family
        yield from _families(family)
