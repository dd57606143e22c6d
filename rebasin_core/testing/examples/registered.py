"""Small instances of registered classes, on which the conformance kit tries its laws."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from rebasin_core.errors import PluginError
from rebasin_core.plugin.discovery import new_manager
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.bounds import MAX_CLASSES
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

    Raises:
        PluginError: If the hook gives examples without end.
    """
    given = built_in_examples(entry.kind, folder) if entry.status.is_built_in else _given(entry, folder)
    if given is not None:
        return _bounded(given, entry)
    if issubclass(entry.kind, Strategy) and not any(f.is_required() for f in entry.kind.model_fields.values()):
        return (cast("Any", entry.kind)(),)
    return ()


def _given(entry: Registered, folder: Path) -> Sequence[object] | None:
    """Return what the plugin's own hook gives, called through pluggy, which knows the options of the hook's marker."""
    manager = new_manager()
    manager.register(entry.status.plugin)
    return next(iter(manager.hook.rebasin_examples(kind=entry.kind, folder=folder)), None)


def _bounded(given: Sequence[object], entry: Registered) -> Sequence[object]:
    examples = tuple(islice(given, MAX_CLASSES + 1))
    if len(examples) > MAX_CLASSES:
        message = f"{entry.status.label} gives more than {MAX_CLASSES} examples of {entry.kind.__name__}"
        raise PluginError(message)
    return examples
