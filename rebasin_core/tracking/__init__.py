"""Trackers: the results of a study in a tracking tool, while the study runs."""

from rebasin_core.tracking.base import Tracker, open_trackers
from rebasin_core.tracking.events import (
    AbstractEvent,
    Series,
    StageEvent,
    StageFailure,
    StudyInfo,
    StudySummary,
    flattened,
)
from rebasin_core.tracking.json_lines import JSONLinesTracker
from rebasin_core.tracking.tensorboard import TensorBoardTracker
from rebasin_core.tracking.tracking import AbstractRecorder, Tracking

__all__ = [
    "AbstractEvent",
    "AbstractRecorder",
    "JSONLinesTracker",
    "Series",
    "StageEvent",
    "StageFailure",
    "StudyInfo",
    "StudySummary",
    "TensorBoardTracker",
    "Tracker",
    "Tracking",
    "flattened",
    "open_trackers",
]
