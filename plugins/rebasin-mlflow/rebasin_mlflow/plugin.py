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
    from rebasin_mlflow.tracker import MLflowTracker

    return [MLflowTracker]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return a tracker that writes to a local database, for the conformance kit."""
    from rebasin_mlflow.tracker import MLflowTracker

    if kind is not MLflowTracker:
        return None
    address = f"sqlite:///{folder / 'mlflow.db'}"
    return [MLflowTracker(tracking_uri=address, artifacts=(folder / "artifacts").as_uri())]
