"""Examples of a registered class, from its plugin or from its defaults."""

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
        The examples from the hook ``rebasin_examples`` of the plugin, or those of this package for built-in classes. If
        there are none: one instance with default options, or nothing if an option has no default.

    Raises:
        PluginError: If the hook returns too many examples.
    """
    given = built_in_examples(entry.kind, folder) if entry.status.is_built_in else _given(entry, folder)
    if given is not None:
        return _bounded(given, entry)
    if issubclass(entry.kind, Strategy) and not any(f.is_required() for f in entry.kind.model_fields.values()):
        return (cast("Any", entry.kind)(),)
    return ()


def _given(entry: Registered, folder: Path) -> Sequence[object] | None:
    """Return the examples of the plugin's hook, called through pluggy, which handles the options of `hookimpl`."""
    manager = new_manager()
    manager.register(entry.status.plugin)
    return next(iter(manager.hook.rebasin_examples(kind=entry.kind, folder=folder)), None)


def _bounded(given: Sequence[object], entry: Registered) -> Sequence[object]:
    examples = tuple(islice(given, MAX_CLASSES + 1))
    if len(examples) > MAX_CLASSES:
        message = f"{entry.status.label} provides more than {MAX_CLASSES} examples of {entry.kind.__name__}"
        raise PluginError(message)
    return examples
