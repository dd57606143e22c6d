"""The registry: every strategy by family and name, and which distribution it came from."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.config.base import StrategyConfig, family_of
from rebasin_core.config.reading import parse_strategy
from rebasin_core.errors import BrokenPluginWarning, PluginError, UnknownNameError, nearest
from rebasin_core.plugin.discovery import PluginStatus, load_plugins, new_manager
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.posteriors.adapter import PosteriorAdapter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.specs.operators.base import OperatorRules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@final
@dataclass(frozen=True, slots=True)
class Registered:
    """One registered class.

    Attributes:
        family: Its family.
        name: Its name in that family.
        kind: The configuration class, or for posteriors, adapters and operator rules the class itself.
        status: The plugin it came from.
    """

    family: str
    name: str
    kind: type[Any]
    status: PluginStatus


@final
class Registry:
    """All strategies of all plugins.

    Hooks are called when their family is first asked for. A plugin whose hook fails, or returns something else than it
    should, is left out with its error in `plugins`, and a warning; the others are not touched.

    Args:
        external: Whether to load installed plugin packages, or only what is built in.

    Example:
        >>> registry = Registry(external=False)
        >>> sorted(registry.names("barrier"))
        ['curved', 'marginalized', 'pointwise', 'repair', 'reset']
        >>> type(registry.build("matcher", {"name": "weight", "max_sweeps": 5})).__name__
        'WeightMatcher'
    """

    def __init__(self, *, external: bool = True) -> None:
        self._manager = new_manager()
        self._plugins = load_plugins(self._manager, external=external)
        self._families: dict[str, dict[str, list[Registered]]] = {}
        for status in self._plugins:
            if status.error is not None:
                _warn(status)

    @property
    def plugins(self) -> Sequence[PluginStatus]:
        """All plugins found, loaded or not. A failing hook shows once its family has been asked for."""
        return tuple(self._plugins)

    def names(self, family: str) -> list[str]:
        """Return the names registered in a family.

        Args:
            family: Such as ``matcher``.

        Returns:
            The names, sorted.

        Raises:
            UnknownNameError: If there is no such family.
        """
        return sorted(self._family(family))

    def all(self, *, distribution: str | None = None) -> list[Registered]:
        """Return everything that is registered.

        Args:
            distribution: Only what this distribution offers.

        Returns:
            Registered classes, by family and name; one name may stand twice if two distributions offer it.
        """
        found = [entry for family in HOOKS for entries in self._family(family).values() for entry in entries]
        return [entry for entry in found if distribution in {None, entry.status.distribution}]

    def get(self, family: str, name: str) -> Registered:
        """Return a registered class.

        Args:
            family: Such as ``matcher``.
            name: Its name there.

        Returns:
            The class and where it came from.

        Raises:
            UnknownNameError: If nothing has that name; tells the nearest names, and which plugins are broken.
            PluginError: If two distributions offer the name.
        """
        entries = self._family(family).get(name, [])
        if len(entries) == 1:
            return entries[0]
        if entries:
            offered = " and ".join(entry.status.label for entry in entries)
            message = (
                f"the {family} {name!r} is offered by {offered}; uninstall one, or leave it out with REBASIN_PLUGINS"
            )
            raise PluginError(message)
        message = f"no {family} {name!r}; {nearest(name, self._family(family))}"
        broken = [f"{status.label} ({status.error})" for status in self._plugins if status.error is not None]
        if broken:
            message += f". These plugins could not be loaded: {'; '.join(broken)}"
        raise UnknownNameError(message)

    def config_class(self, family: str, name: str) -> type[StrategyConfig]:
        """Return the configuration class of a strategy.

        Args:
            family: One of `config.FAMILIES`.
            name: Its name there.

        Returns:
            The class.

        Raises:
            UnknownNameError: If there is no such strategy.
            PluginError: If two distributions offer it.
        """
        kind: type[StrategyConfig] = self.get(family, name).kind
        return kind

    def build(self, family: str, value: str | Mapping[str, object]) -> Any:  # ruff: ignore[any-type] - any family's strategy
        """Return a strategy.

        Args:
            family: One of `config.FAMILIES`.
            value: A name, or a mapping with ``name`` and options.

        Returns:
            The strategy.

        Raises:
            UnknownNameError: If there is no such strategy.
            ConfigError: If options are unknown or out of range.
            PluginError: If two distributions offer it.
        """
        return parse_strategy(family, value, self.config_class, source=f"{family} options").build()

    def _family(self, family: str) -> dict[str, list[Registered]]:
        if family not in HOOKS:
            message = f"no family {family!r}; {nearest(family, HOOKS)}"
            raise UnknownNameError(message)
        if family not in self._families:
            found: dict[str, list[Registered]] = {}
            for status in self._plugins:
                for entry in _offers(family, status):
                    found.setdefault(entry.name, []).append(entry)
            self._families[family] = found
        return self._families[family]


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed, made on first use."""
    return Registry()


def _offers(family: str, status: PluginStatus) -> list[Registered]:
    """Return what a plugin offers in a family; note its error if its hook fails."""
    hook = getattr(status.plugin, HOOKS[family], None)
    if hook is None:
        return []
    try:
        return [Registered(family, _name(family, kind), kind, status) for kind in hook()]
    except Exception as error:  # ruff: ignore[blind-except] - a failing hook must not harm other plugins
        status.error = f"{HOOKS[family]} failed: {type(error).__name__}: {error}"
        _warn(status)
        return []


_BASES: dict[str, type[Any]] = {
    "posterior": Posterior,
    "posterior_adapter": PosteriorAdapter,
    "operator_rules": OperatorRules,
}


def _name(family: str, kind: type[Any]) -> str:
    """Return the name of a class that a hook returned, after checking that it belongs there."""
    base = _BASES.get(family, StrategyConfig)
    if not issubclass(kind, base):
        message = f"expected subclasses of {base.__name__}, got {kind!r}"
        raise PluginError(message)
    if issubclass(kind, StrategyConfig):
        if family_of(kind) != family:
            message = f"{kind.__name__} belongs to the family {family_of(kind)!r}, not {family!r}"
            raise PluginError(message)
        return kind.registry_name()
    if issubclass(kind, OperatorRules):
        return kind.name
    return str(kind.kind) if issubclass(kind, Posterior) else kind.__name__


def _warn(status: PluginStatus) -> None:
    warnings.warn(f"the plugin {status.label} is left out: {status.error}", BrokenPluginWarning, stacklevel=4)
