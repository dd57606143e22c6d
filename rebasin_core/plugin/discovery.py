"""Finding plugins: every installed distribution with an entry point, each on its own, so that none harms another."""

from __future__ import annotations

import os
import re
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
    installed = entry_points(group=ENTRY_POINT_GROUP) if external else []
    points = sorted(_wanted(installed), key=lambda p: (_distribution(p), p.name))
    missing = _missing(installed) if external else []
    return [core, *(_load(manager, point) for point in points), *missing]


def new_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hooks and has no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _wanted(installed: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Return the entry points that the environment variable allows."""
    allowed = _allowed()
    return [point for point in installed if allowed is None or _normalized(_distribution(point)) in allowed]


def _missing(installed: Iterable[EntryPoint]) -> list[PluginStatus]:
    """Return a status for each distribution that the environment variable names and that is not installed."""
    names = sorted({_distribution(point) for point in installed})
    known = {_normalized(name) for name in names}
    return [
        PluginStatus(SWITCH, name, f"in {SWITCH}", error=f"no plugin of this name is installed; {nearest(name, names)}")
        for normalized, name in (_allowed() or {}).items()
        if normalized not in known
    ]


def _allowed() -> dict[str, str] | None:
    """Return the distributions that the environment variable names, by their normalized names; None for all."""
    value = os.environ.get(SWITCH, "all").strip()
    if value == "all":
        return None
    names = [] if value == "none" else [name.strip() for name in value.split(",")]
    return {_normalized(name): name for name in names if name}


def _normalized(name: str) -> str:
    """Return a distribution's name as packaging tools compare it: `rebasin_example` is `Rebasin-Example`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown distribution"


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> PluginStatus:
    status = PluginStatus(point.name, _distribution(point), point.dist.version if point.dist is not None else "?")
    try:
        plugin = point.load()
        status.error = _registered(manager, plugin, f"{status.distribution}:{point.name}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # ruff: ignore[blind-except] - an import must not harm others, SystemExit included
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
