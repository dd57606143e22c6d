"""Plugins: hook specifications, discovery and the registry. Only this package uses pluggy."""

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
