"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_ray.executor import RayExecutor


@hookimpl
def rebasin_executors() -> Sequence[type[RayExecutor]]:
    """Return the executor."""
    from rebasin_ray.executor import RayExecutor

    return [RayExecutor]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return executors of one and two tasks at a time."""
    from rebasin_ray.executor import RayExecutor

    del folder
    return [RayExecutor(tasks=2)] if kind is RayExecutor else None
