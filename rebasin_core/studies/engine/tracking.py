"""Events of a study for trackers: metrics and series of the stages that were computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.studies.engine.observer import Observer
from rebasin_core.studies.kinds.curve import curve_in
from rebasin_core.tracking.events import Series, StageEvent, StageFailure, StudySummary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rebasin_core.studies.engine.observer import Failure, Outcome
    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact
    from rebasin_core.tracking.tracking import Tracking


@final
class TrackingObserver(Observer):
    """Sends the results of computed stages to trackers.

    Args:
        tracking: Connection to the trackers.
        factors: Factors of stages by identity, such as the levels of the cell and the pair.
        figures: Draws the figures of the finished study, and returns them by name.
    """

    def __init__(
        self,
        tracking: Tracking,
        factors: Mapping[str, Mapping[str, object]],
        figures: Callable[[], Mapping[str, Path]],
    ) -> None:
        self._tracking = tracking
        self._factors = factors
        self._figures = figures

    @override
    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        if artifact is None:  # another command computed it, and sends it
            return
        about = artifact.about
        self._tracking.stage_finished(
            StageEvent(
                stage.kind,
                stage.label,
                stage.id,
                factors=self._factors.get(stage.id, {}),
                seconds=float(about.get("seconds", 0.0)),
                device=str(about.get("device", "")),
                threads=int(about.get("threads", 1)),
                metrics=_metrics(artifact),
                series=_series(artifact),
            )
        )

    @override
    def failed(self, failure: Failure) -> None:
        stage = failure.stage
        self._tracking.stage_failed(
            StageFailure(
                stage.kind,
                stage.label,
                stage.id,
                factors=self._factors.get(stage.id, {}),
                error=f"{failure.error}: {failure.message}",
                attempts=failure.attempts,
                log=failure.log,
            )
        )

    @override
    def ended(self, outcome: Outcome) -> None:
        self._tracking.study_finished(
            StudySummary(
                len(outcome.computed),
                outcome.reused,
                len(outcome.failures),
                len(outcome.blocked) + outcome.unfinished,
                outcome.seconds,
                outcome.work_seconds,
                interrupted=outcome.unfinished > 0,
                files=self._figures() if outcome.computed and not outcome.unfinished else {},
            )
        )


def _metrics(artifact: Artifact) -> dict[str, float]:
    documents = artifact.documents
    if "curve" in documents:
        curve = curve_in(documents)
        middle = len(curve.t) // 2
        return {
            "height": curve.height,
            "height_stderr": curve.height_stderr,
            "interior_excess": curve.interior_excess,
            "loss_at_reference": curve.loss[0],
            "loss_at_midpoint": curve.loss[middle],
            "loss_at_candidate": curve.loss[-1],
        }
    if "match" in documents:
        found = {name: documents["match"][name] for name in ("objective", "identity_objective", "sweeps")}
        return _finite({**found, "distance": documents["distances"]["aligned"]})
    if "aligned" in documents:
        return {"mean_squared_distance": documents["aligned"]["mean_squared_distances"][-1]}
    if "scores" in documents:
        return _finite(documents["scores"]["scores"])
    if "training" in documents and documents["training"]["history"]:
        return {"objective": documents["training"]["history"][-1]}
    return {}


def _series(artifact: Artifact) -> dict[str, Series]:
    documents = artifact.documents
    if "curve" in documents:
        curve = curve_in(documents)
        return {"loss": Series(curve.loss, curve.t, "t"), "excess": Series(curve.excess, curve.t, "t")}
    if "training" in documents:
        history = documents["training"]
        names = {"objective": history["history"], "validation": history["validation"]}
        return {name: Series(values) for name, values in names.items() if values}
    if "match" in documents:
        return {"objective": Series(documents["match"]["trace"], axis="sweep")}
    if "aligned" in documents:
        return {"mean_squared_distance": Series(documents["aligned"]["mean_squared_distances"], axis="round")}
    return {}


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
