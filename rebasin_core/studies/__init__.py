"""Runs and studies: stages, a store of their results, and the engine that computes them."""

from rebasin_core.studies.engine.observer import Failure, Observer, Outcome
from rebasin_core.studies.execution import RunResult, load_run, run
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Artifact, Holder, Session, Store, StoredFile
from rebasin_core.studies.study import Forecast, Study, load_study

__all__ = [
    "Artifact",
    "Failure",
    "Forecast",
    "Holder",
    "Observer",
    "Outcome",
    "RunResult",
    "Session",
    "Stage",
    "Store",
    "StoredFile",
    "Study",
    "load_run",
    "load_study",
    "run",
]
