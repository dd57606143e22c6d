"""Finding plugins: every installed distribution with an entry point, each on its own, so that none harms another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import TYPE_CHECKING, final

import pluggy

from rebasin_core.errors import nearest
from rebasin_core.plugin import builtin
from rebasin_core.plugin.hookspecs import KNOWN_HOOKS, PROJECT, HookSpecs

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRY_POINT_GROUP = "rebasin_core"
"""The entry-point group in which a distribution names its plugin module."""

SWITCH = "REBASIN_PLUGINS"
"""The environment variable that switches plugins off: ``none``, or a list of the distributions to load."""

CORE = "rebasin-core"


@final
@dataclass(slots=True)
class PluginStatus:
    """One plugin, loaded or not.

    Attributes:
        name: The name of its entry point.
        distribution: The installed distribution that has it.
        version: That distribution's version.
        error: Why it could not be loaded, or what failed later; None if all is well.
        plugin: The loaded module; None if it could not be loaded.
    """

    name: str
    distribution: str
    version: str
    error: str | None = None
    plugin: object | None = None

    @property
    def label(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}"

    @property
    def is_built_in(self) -> bool:
        """Whether it is part of this package."""
        return self.distribution == CORE


def load_plugins(manager: pluggy.PluginManager, *, external: bool = True) -> list[PluginStatus]:
    """Register the built-in plugin and all installed ones.

    Args:
        manager: A manager that knows the hooks.
        external: Whether to look for installed distributions.

    Returns:
        What was found, loaded or not, in the order of names. Nothing an external plugin does raises from here.
    """
    core = PluginStatus("builtin", CORE, version(CORE), plugin=builtin)
    manager.register(builtin, name=CORE)
    points = sorted(_wanted(), key=lambda p: (_distribution(p), p.name)) if external else []
    return [core, *(_load(manager, point) for point in points)]


def new_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hooks and has no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _wanted() -> Iterable[EntryPoint]:
    allowed = os.environ.get(SWITCH, "all").strip()
    if allowed in {"none", ""}:
        return []
    points = entry_points(group=ENTRY_POINT_GROUP)
    if allowed == "all":
        return points
    names = {name.strip() for name in allowed.split(",")}
    return [point for point in points if _distribution(point) in names]


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown distribution"


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> PluginStatus:
    status = PluginStatus(point.name, _distribution(point), point.dist.version if point.dist is not None else "?")
    try:
        plugin = point.load()
        status.error = _registered(manager, plugin, f"{status.distribution}:{point.name}")
    except Exception as error:  # ruff: ignore[blind-except] - whatever a plugin does on import must not harm the others
        status.error = f"{type(error).__name__}: {error}"
        return status
    status.plugin = plugin if status.error is None else None
    return status


def _registered(manager: pluggy.PluginManager, plugin: object, name: str) -> str | None:
    """Register a plugin; return why it cannot be."""
    if manager.register(plugin, name=name) is None:
        return "it is blocked"
    mistake = mistake_of(plugin, manager)
    if mistake is not None:
        manager.unregister(plugin)
    return mistake


def mistake_of(plugin: object, manager: pluggy.PluginManager) -> str | None:
    """Return what is wrong with the hooks of a registered plugin, which pluggy itself accepts.

    Args:
        plugin: The plugin.
        manager: The manager with which it is registered.

    Returns:
        A sentence about hooks that do not exist, or about a plugin without hooks; None if all is well.
    """
    callers = manager.get_hookcallers(plugin) or []
    unknown = [
        caller.name
        for caller in callers
        if not caller.has_spec()
        and any(impl.plugin is plugin and not impl.optionalhook for impl in caller.get_hookimpls())
    ]
    if unknown:
        return "; ".join(f"there is no hook {name!r}: {nearest(name, KNOWN_HOOKS)}" for name in sorted(unknown))
    return None if callers else f"it implements no hook; {nearest('', KNOWN_HOOKS)}"
