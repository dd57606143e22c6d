"""Finding plugins: every installed distribution with an entry point, each on its own, so that none harms another."""

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
from rebasin_core.plugin import builtin
from rebasin_core.plugin.hookspecs import KNOWN_HOOKS, PROJECT, HookSpecs
from rebasin_core.plugin.isolation import isolated

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRY_POINT_GROUP = "rebasin_core"
"""The entry-point group in which a distribution names its plugin module."""

SWITCH = "REBASIN_PLUGINS"
"""The environment variable that switches plugins off: ``none``, or a list of the distributions to load; ``all``, or an
empty value, for all."""

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
    return [point for point in installed if allowed is None or canonicalize_name(_distribution(point)) in allowed]


def _missing(installed: Iterable[EntryPoint]) -> list[PluginStatus]:
    """Return a status for each distribution that the environment variable names and that is not installed."""
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
    """Return the distributions that the environment variable names, by their normalized names; None for all."""
    value = os.environ.get(SWITCH, "").strip()
    if value.lower() in {"", "all"}:
        return None
    names = [] if value.lower() == "none" else [name.strip() for name in value.split(",")]
    return {canonicalize_name(name): name for name in names if name}


def _distribution(point: EntryPoint) -> str:
    # The metadata of a distribution that is damaged, or half removed, has no name.
    return (point.dist.name if point.dist is not None else None) or "unknown distribution"


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> PluginStatus:
    status = PluginStatus(
        point.name, _distribution(point), (point.dist.version if point.dist is not None else None) or "?"
    )
    refused = _requires_another_core(point)
    if refused is not None:
        status.error = refused
        return status
    with isolated() as attempt:
        plugin = point.load()
        status.error = _registered(manager, plugin, f"{status.distribution}:{point.name}")
        status.plugin = plugin if status.error is None else None
    status.error = attempt.problem or status.error
    return status


def _requires_another_core(point: EntryPoint) -> str | None:
    """Return why a distribution does not work with this version, by what it requires; None if it does."""
    installed = Version(version(CORE))
    for line in (point.dist.requires or ()) if point.dist is not None else ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of something else, or it could not be installed
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        fits = requirement.specifier.contains(installed, prereleases=True)
        if canonicalize_name(requirement.name) == CORE and applies and not fits:
            return (
                f"it requires {CORE}{requirement.specifier}, and {installed} is installed; install versions that go "
                "together"
            )
    return None


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
