"""Finding plugins: every installed distribution with an entry point, each on its own, so that none harms another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import TYPE_CHECKING, final

import pluggy

from rebasin_core.errors import nearest
from rebasin_core.plugin import builtin
from rebasin_core.plugin.hookspecs import HOOKS, PROJECT, HookSpecs

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
        unknown = _unknown_hooks(plugin)
        if unknown:
            status.error = unknown
            return status
        manager.register(plugin, name=f"{status.distribution}:{point.name}")
    except Exception as error:  # ruff: ignore[blind-except] - whatever a plugin does on import must not harm the others
        status.error = f"{type(error).__name__}: {error}"
        return status
    status.plugin = plugin
    return status


def _unknown_hooks(plugin: object) -> str | None:
    """Return what is wrong with the names of a plugin's hooks, which pluggy would ignore without a word."""
    known = {*HOOKS.values(), "rebasin_examples"}
    marked = [name for name in dir(plugin) if getattr(getattr(plugin, name), f"{PROJECT}_impl", None)]
    wrong = [name for name in marked if name not in known]
    if wrong:
        return "; ".join(f"there is no hook {name!r}: {nearest(name, known)}" for name in wrong)
    return None if marked else f"it implements no hook; {nearest('', known)}"
