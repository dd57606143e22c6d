"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import Tracker


@hookimpl
def rebasin_trackers() -> Sequence[type[Tracker]]:
    """Return the tracker."""
    from rebasin_wandb.tracker import WandbTracker

    return [WandbTracker]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return a tracker that only writes files, for the conformance kit."""
    from rebasin_wandb.tracker import WandbTracker

    return [WandbTracker(mode="offline", folder=folder)] if kind is WandbTracker else None
