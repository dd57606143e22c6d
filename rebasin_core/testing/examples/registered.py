"""Small instances of registered classes, on which the conformance kit tries its laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rebasin_core.plugin.discovery import new_manager
from rebasin_core.strategy import Strategy
from rebasin_core.testing.examples.strategies import built_in_examples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core.plugin.registry import Registered


def examples_of(entry: Registered, folder: Path) -> Sequence[object]:
    """Return small instances of a registered class.

    Args:
        entry: The class.
        folder: An empty folder that examples may use.

    Returns:
        What the plugin's hook ``rebasin_examples`` gives, or those of this package for what is built in; else one
        instance with default options, if there are defaults; else nothing.
    """
    given = built_in_examples(entry.kind, folder) if entry.status.is_built_in else _given(entry, folder)
    if given is not None:
        return tuple(given)
    if issubclass(entry.kind, Strategy) and not any(f.is_required() for f in entry.kind.model_fields.values()):
        return (cast("Any", entry.kind)(),)
    return ()


def _given(entry: Registered, folder: Path) -> Sequence[object] | None:
    """Return what the plugin's own hook gives, called through pluggy, which knows the options of the hook's marker."""
    manager = new_manager()
    manager.register(entry.status.plugin)
    return next(iter(manager.hook.rebasin_examples(kind=entry.kind, folder=folder)), None)
