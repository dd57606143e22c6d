"""The registry: all components by family and name, each with the distribution that registers it."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.architectures.base import Architecture
from rebasin_core.assignment.base import AssignmentSolver
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.paths.base import Path
from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.model_source import ModelSource
from rebasin_core.data.base import DataSource
from rebasin_core.errors import BrokenPluginWarning, PluginError, UnknownNameError, nearest
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.metric import Metric
from rebasin_core.executors.base import Executor
from rebasin_core.inference.base import Inference
from rebasin_core.isolation import isolated
from rebasin_core.matchers.base import Matcher
from rebasin_core.merging.base import MergeMethod
from rebasin_core.plugin.discovery import PluginStatus, hook_error, load_plugins, new_manager
from rebasin_core.plugin.hook_results import checked_classes, name_of
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.posteriors.adapter import PosteriorAdapter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.specs.base import SpecFactory
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.strategy import Strategy, find_names_by
from rebasin_core.tracking.base import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pluggy

INTERFACES: Mapping[str, type[Any]] = {
    "architecture": Architecture,
    "assignment": AssignmentSolver,
    "dataset": DataSource,
    "barrier": BarrierEstimator,
    "executor": Executor,
    "inference": Inference,
    "likelihood": Likelihood,
    "matcher": Matcher,
    "merge_method": MergeMethod,
    "metric": Metric,
    "path": Path,
    "posterior": Posterior,
    "posterior_adapter": PosteriorAdapter,
    "operator_rules": OperatorRules,
    "spec": SpecFactory,
    "tracker": Tracker,
    "checkpoint_reader": CheckpointReader,
    "model_source": ModelSource,
}
"""The interface of every family."""

FAMILIES: Sequence[str] = [family for family, interface in INTERFACES.items() if issubclass(interface, Strategy)]
"""The families of strategies, whose members are selected by name."""


@final
@dataclass(frozen=True, slots=True)
class Registered:
    """A registered class.

    Attributes:
        family: Its family.
        name: Its name in the family.
        kind: The class.
        status: The plugin that registers it.
    """

    family: str
    name: str
    kind: type[Any]
    status: PluginStatus


@final
class Registry:
    """The components of all plugins, by family and name.

    Hooks are called through pluggy when their family is first requested, separately for each plugin. If a hook fails or
    returns an invalid value, its classes are ignored with a warning, and `plugins` contains the error. Other plugins
    are not affected. Plugins can be registered, unregistered and blocked at any time through `manager`.

    Args:
        external: Whether to load installed plugin packages in addition to the built-in components.

    Examples:
        >>> registry = Registry(external=False)
        >>> sorted(registry.names("barrier"))
        ['calibrated', 'curved', 'elastic_band', 'marginalized', 'pointwise', 'repair', 'reset']
        >>> registry.build("matcher", {"name": "weight", "max_sweeps": 5})
        WeightMatcher(max_sweeps=5)
    """

    def __init__(self, *, external: bool = True) -> None:
        self._manager = new_manager()
        self._plugins = load_plugins(self._manager, external=external)
        # For each family, the plugins whose hooks were called, and the classes that they registered.
        self._families: dict[str, tuple[Sequence[object], dict[str, list[Registered]]]] = {}
        for status in self._plugins:
            if status.error is not None:
                _warn(status)

    @property
    def manager(self) -> pluggy.PluginManager:
        """The plugin manager; ``register``, ``unregister`` and ``set_blocked`` take effect immediately."""
        return self._manager

    @property
    def plugins(self) -> Sequence[PluginStatus]:
        """All plugins, loaded or not. The error of a failing hook is included once its family has been requested."""
        return tuple(self._plugins)

    def names(self, family: str) -> list[str]:
        """Return the names registered in a family.

        Args:
            family: Name of the family, such as ``matcher``.

        Returns:
            The names, sorted.

        Raises:
            UnknownNameError: If there is no such family.
        """
        return sorted(self._family(family))

    def classes(self, family: str) -> list[type[Any]]:
        """Return the classes of a family that can be selected by name.

        Args:
            family: Name of the family, such as ``matcher``.

        Returns:
            The classes, sorted by name, without names that two distributions register.

        Raises:
            UnknownNameError: If there is no such family.
        """
        found = self._family(family)
        return [found[name][0].kind for name in sorted(found) if len(found[name]) == 1]

    def all(self, *, distribution: str | None = None) -> list[Registered]:
        """Return all registered classes.

        Args:
            distribution: If given, only the classes of this distribution.

        Returns:
            The classes, grouped by family; a name occurs twice if two distributions register it.
        """
        found = [entry for family in HOOKS for entries in self._family(family).values() for entry in entries]
        return [entry for entry in found if distribution in {None, entry.status.distribution}]

    def get(self, family: str, name: str) -> Registered:
        """Return a registered class with the plugin that registers it.

        Args:
            family: Name of the family, such as ``matcher``.
            name: Registered name in the family.

        Returns:
            The entry of the class.

        Raises:
            UnknownNameError: If the name is not registered; lists similar names, and plugins that could not be loaded.
            PluginError: If two distributions register the name.
        """
        entries = self._family(family).get(name, [])
        if len(entries) == 1:
            return entries[0]
        if entries:
            labels = " and ".join(entry.status.label for entry in entries)
            message = (
                f"the {family} {name!r} is registered by {labels}; uninstall one of them, or disable it with "
                "REBASIN_PLUGINS"
            )
            raise PluginError(message)
        message = f"no {family} {name!r}; {nearest(name, self._family(family))}"
        broken = [f"{status.label} ({status.error})" for status in self._plugins if status.error is not None]
        if broken:
            message += f". Plugins with errors: {'; '.join(broken)}"
        raise UnknownNameError(message)

    def strategy_class(self, family: str, name: str) -> type[Any]:
        """Return a registered class.

        Args:
            family: Name of the family, such as ``matcher``.
            name: Registered name in the family.

        Returns:
            The class.

        Raises:
            UnknownNameError: If the name is not registered.
            PluginError: If two distributions register it.
        """
        return self.get(family, name).kind

    def build(self, family: str, value: object) -> Any:  # ruff: ignore[any-type] - any family's strategy
        """Create a strategy.

        Args:
            family: Name of the family, such as ``matcher``.
            value: A registered name, or a mapping with ``name`` and options.

        Returns:
            The strategy.

        Raises:
            UnknownNameError: If the name is not registered.
            ConfigError: If options are unknown or out of range.
            PluginError: If two distributions register the name.
        """
        self._family(family)
        if family not in FAMILIES:
            message = f"the classes of family {family!r} have no options; {nearest(family, FAMILIES)}"
            raise UnknownNameError(message)
        return INTERFACES[family].of(value, self.strategy_class)

    def call(self, plugin: object, hook: str, **arguments: object) -> list[Any]:
        """Call the implementations of a hook by one plugin, inside the hook wrappers of other plugins.

        Args:
            plugin: The plugin.
            hook: Name of the hook.
            **arguments: Arguments of the hook.

        Returns:
            The returned values; empty if the plugin does not implement the hook.
        """
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        implementing = [impl.plugin for impl in impls if not (impl.wrapper or impl.hookwrapper)]
        if plugin not in implementing:
            return []
        others = [other for other in implementing if other is not plugin]
        found: list[Any] = self._manager.subset_hook_caller(hook, others)(**arguments)
        return found

    def _family(self, family: str) -> dict[str, list[Registered]]:
        if family not in list(HOOKS):  # a list, because the argument may not be hashable
            message = f"no family {family!r}; {nearest(str(family), HOOKS)}"
            raise UnknownNameError(message)
        plugins = [plugin for _, plugin in self._manager.list_name_plugin() if plugin is not None]
        asked, found = self._families.get(family, ((), {}))
        if not found or plugins != asked:
            found = {}
            for plugin in plugins:
                for entry in self._registered_by(plugin, family):
                    found.setdefault(entry.name, []).append(entry)
            self._families[family] = plugins, found
        return found

    def _registered_by(self, plugin: object, family: str) -> list[Registered]:
        """Return the classes that a plugin registers in a family; record the error if its hook fails."""
        status = self._status(plugin)
        found: list[Registered] = []
        with isolated() as attempt:
            returned = self.call(plugin, HOOKS[family])
            classes = [kind for kinds in returned for kind in checked_classes(kinds, INTERFACES[family])]
            found = [Registered(family, name_of(kind), kind, status) for kind in classes]
        if attempt.error is not None:
            status.error = f"{HOOKS[family]} failed: {attempt.problem}"
            _warn(status)
        return found

    def _status(self, plugin: object) -> PluginStatus:
        """Return the status of a plugin; create one if it was registered through the manager."""
        for status in self._plugins:
            if status.plugin is plugin:
                return status
        name = self._manager.get_name(plugin) or repr(plugin)
        problem = hook_error(plugin, self._manager)
        status = PluginStatus(name, name, "registered by hand", error=problem, plugin=plugin)
        if problem is not None:
            _warn(status)
        self._plugins.append(status)
        return status


@functools.cache
def default_registry() -> Registry:
    """Return the registry of all installed plugins, created on first use."""
    return Registry()


find_names_by(lambda family, name: default_registry().strategy_class(family, name))


def _warn(status: PluginStatus) -> None:
    warnings.warn(f"plugin {status.label} is ignored: {status.error}", BrokenPluginWarning, stacklevel=4)
