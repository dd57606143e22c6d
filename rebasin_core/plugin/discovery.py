"""Discover plugins: load each installed distribution with an entry point, and isolate its errors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import TYPE_CHECKING, final

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rebasin_core.errors import nearest
from rebasin_core.isolation import isolated
from rebasin_core.plugin import builtin
from rebasin_core.plugin.hookspecs import KNOWN_HOOKS, PROJECT, HookSpecs

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRY_POINT_GROUP = "rebasin_core"
"""Entry-point group in which a distribution declares its plugin module."""

SWITCH = "REBASIN_PLUGINS"
"""Environment variable that selects the plugins to load: ``none``, ``all`` (also if empty), or a list of distributions
separated by commas."""

CORE = "rebasin-core"


@final
@dataclass(slots=True)
class PluginStatus:
    """A plugin and the result of loading it.

    Attributes:
        name: Name of its entry point.
        distribution: The installed distribution that declares it.
        version: Version of the distribution.
        error: Error message if the plugin could not be loaded or one of its hooks failed; None if there was no error.
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
        """Whether the plugin is part of this package."""
        return self.distribution == CORE


def load_plugins(manager: pluggy.PluginManager, *, external: bool = True) -> list[PluginStatus]:
    """Register the built-in plugin and the installed ones.

    Args:
        manager: A manager with the hook specifications.
        external: Whether to load plugins of other installed distributions.

    Returns:
        The plugins, including those that could not be loaded, sorted by name. Errors of external plugins are stored in
        the result and not raised.
    """
    core = PluginStatus("builtin", CORE, version(CORE), plugin=builtin)
    manager.register(builtin, name=CORE)
    installed = entry_points(group=ENTRY_POINT_GROUP) if external else []
    points = sorted(_wanted(installed), key=lambda p: (_distribution(p), p.name))
    missing = _missing(installed) if external else []
    return [core, *(_load(manager, point) for point in points), *missing]


def new_manager() -> pluggy.PluginManager:
    """Create a manager with the hook specifications and without plugins."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _wanted(installed: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Return the entry points that the environment variable selects."""
    allowed = _allowed()
    return [point for point in installed if allowed is None or canonicalize_name(_distribution(point)) in allowed]


def _missing(installed: Iterable[EntryPoint]) -> list[PluginStatus]:
    """Return a status for each distribution in the environment variable that is not installed."""
    names = sorted({_distribution(point) for point in installed})
    known = {canonicalize_name(name) for name in (*names, CORE)}
    return [
        PluginStatus(
            SWITCH,
            name,
            f"in {SWITCH}",
            error=f"no plugin of this name is installed; {nearest(name, [*names, 'all', 'none'])}",
        )
        for normalized, name in (_allowed() or {}).items()
        if normalized not in known
    ]


def _allowed() -> dict[str, str] | None:
    """Return the distributions in the environment variable, by their normalized names; None for all."""
    value = os.environ.get(SWITCH, "").strip()
    if value.lower() in {"", "all"}:
        return None
    names = [] if value.lower() == "none" else [name.strip() for name in value.split(",")]
    return {canonicalize_name(name): name for name in names if name}


def _distribution(point: EntryPoint) -> str:
    # The metadata of a damaged or partly removed distribution has no name.
    return (point.dist.name if point.dist is not None else None) or "unknown distribution"


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> PluginStatus:
    status = PluginStatus(
        point.name, _distribution(point), (point.dist.version if point.dist is not None else None) or "?"
    )
    conflict = _requirement_conflict(point)
    if conflict is not None:
        status.error = conflict
        return status
    with isolated() as attempt:
        plugin = point.load()
        status.error = _registered(manager, plugin, f"{status.distribution}:{point.name}")
        status.plugin = plugin if status.error is None else None
    status.error = attempt.problem or status.error
    return status


def _requirement_conflict(point: EntryPoint) -> str | None:
    """Return a message if the distribution requires another version of this package, else None."""
    installed = Version(version(CORE))
    for line in (point.dist.requires or ()) if point.dist is not None else ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # not of this package
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        fits = requirement.specifier.contains(installed, prereleases=True)
        if canonicalize_name(requirement.name) == CORE and applies and not fits:
            return (
                f"it requires {CORE}{requirement.specifier}, but {installed} is installed; install compatible versions"
            )
    return None


def _registered(manager: pluggy.PluginManager, plugin: object, name: str) -> str | None:
    """Register a plugin; return an error message if that fails, else None."""
    if manager.register(plugin, name=name) is None:
        return "it is blocked"
    error = hook_error(plugin, manager)
    if error is not None:
        manager.unregister(plugin)
    return error


def hook_error(plugin: object, manager: pluggy.PluginManager) -> str | None:
    """Check the hooks of a registered plugin for errors that pluggy accepts.

    Args:
        plugin: The plugin.
        manager: The manager with which it is registered.

    Returns:
        A message if the plugin implements unknown hooks or no hook, else None.
    """
    callers = manager.get_hookcallers(plugin) or []
    unknown = [
        caller.name
        for caller in callers
        if not caller.has_spec()
        and any(impl.plugin is plugin and not impl.optionalhook for impl in caller.get_hookimpls())
    ]
    if unknown:
        return "; ".join(f"unknown hook {name!r}: {nearest(name, KNOWN_HOOKS)}" for name in sorted(unknown))
    return None if callers else f"it implements no hook; {nearest('', KNOWN_HOOKS)}"
