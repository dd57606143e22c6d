"""Plugins: hook specifications, discovery and the registry. Pluggy is used here and nowhere else."""

from rebasin_core.plugin.discovery import ENTRY_POINT_GROUP, PluginStatus
from rebasin_core.plugin.hookspecs import HookSpecs, hookimpl
from rebasin_core.plugin.registry import Registered, Registry, default_registry

__all__ = [
    "ENTRY_POINT_GROUP",
    "HookSpecs",
    "PluginStatus",
    "Registered",
    "Registry",
    "default_registry",
    "hookimpl",
]
