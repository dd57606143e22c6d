"""The import of higher layers by lower ones that need their functions.

Strategies are found by name in the registry, models are traced with the rules of plugins, and group elements transform
objects of other libraries. Higher layers set these functions when they are imported. If only a lower layer is imported,
it calls `import_providers` when it first needs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORTERS: list[Callable[[], None]] = []


def provide_by(importer: Callable[[], None]) -> None:
    """Set the function that imports the higher layers: the package sets it before any other module is imported.

    Args:
        importer: Imports all modules that set functions of lower layers.
    """
    _IMPORTERS[:] = [importer]


def import_providers() -> None:
    """Import all modules that set functions of lower layers."""
    for importer in _IMPORTERS:
        importer()
