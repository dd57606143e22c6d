"""The tracker that appends events to a text file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, final

from typing_extensions import override

from rebasin_core.tracking.base import Tracker
from rebasin_core.tracking.tracking import AbstractRecorder

if TYPE_CHECKING:
    from rebasin_core.tracking.events import AbstractEvent, StageEvent, StageFailure, StudyInfo, StudySummary


@final
class JSONLinesTracker(Tracker):
    """Append every event as one line of JSON to a file, which other programs can follow.

    Each line is an object with the key ``event`` (``study_started``, ``stage_finished``, ``stage_failed`` or
    ``study_finished``), the ``study``'s identity, and the attributes of the event.

    Examples:
        >>> JSONLinesTracker(path="events.jsonl")
        JSONLinesTracker(path=PosixPath('events.jsonl'))
    """

    name: Literal["json_lines"] = "json_lines"

    path: Path
    """The file. It is created with its folder, or extended."""

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Line-buffered: every line is written when it is complete.
        return _Recorder(self.path.open("a", encoding="utf-8", buffering=1), study)


@final
class _Recorder(AbstractRecorder):
    def __init__(self, file: TextIO, study: StudyInfo) -> None:
        self._file = file
        self._study = study.id
        self._write("study_started", study)

    @override
    def stage_finished(self, event: StageEvent) -> None:
        self._write("stage_finished", event)

    @override
    def stage_failed(self, event: StageFailure) -> None:
        self._write("stage_failed", event)

    @override
    def study_finished(self, summary: StudySummary) -> None:
        self._write("study_finished", replace(summary, files={}))  # they are deleted

    @override
    def close(self) -> None:
        self._file.close()

    def _write(self, name: str, event: AbstractEvent) -> None:
        line = {"event": name, "study": self._study, **event.to_json()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
