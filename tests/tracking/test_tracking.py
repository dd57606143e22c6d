"""Delivery of events: sequential, in the background, isolated from the study, and only on request."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import pytest
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import TrackingWarning
from rebasin_core.tracking import (
    AbstractRecorder,
    JSONLinesTracker,
    Series,
    StageEvent,
    StageFailure,
    StudyInfo,
    StudySummary,
    flattened,
    open_trackers,
)

STUDY = StudyInfo(id="s", name="example", settings={"seeds": [1, 2]}, stages={"train": 2}, reused=1)
TRAINED = StageEvent("train", "seed 1", "a", factors={"seed": 1}, seconds=2.0, series={"objective": Series([2.0, 1.0])})
FAILED = StageFailure("match", "1-2", "b", error="ValueError: x", attempts=3)
SUMMARY = StudySummary(computed=1, reused=1, failed=1, seconds=3.0)


@final
class ScriptedTracker(rc.Tracker):
    """Calls a function instead of sending."""

    name: Literal["scripted"] = "scripted"

    close_seconds: ClassVar[float] = 0.2

    act: ClassVar[Any] = staticmethod(lambda *_: None)

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        type(self).act("open", study)
        return ScriptedRecorder(type(self).act)


class ScriptedRecorder(AbstractRecorder):
    def __init__(self, act: Any) -> None:
        self._act = act

    @override
    def stage_finished(self, event: StageEvent) -> None:
        self._act("finished", event)

    @override
    def stage_failed(self, event: StageFailure) -> None:
        self._act("failed", event)

    @override
    def study_finished(self, summary: StudySummary) -> None:
        self._act("summary", summary)

    @override
    def close(self) -> None:
        self._act("close", None)


@contextmanager
def acting(act: Any) -> Generator[ScriptedTracker]:
    ScriptedTracker.act = staticmethod(act)
    yield ScriptedTracker()


def send(*trackers: rc.Tracker) -> tuple[str, ...]:
    with open_trackers(trackers, STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        tracking.stage_failed(FAILED)
        tracking.study_finished(SUMMARY)
    return tracking.problems


def test_events_arrive_sequentially_in_one_other_thread() -> None:
    calls: list[tuple[str, object]] = []
    threads = set()

    def act(name: str, value: object) -> None:
        calls.append((name, value))
        threads.add(threading.current_thread())

    with acting(act) as tracker:
        assert send(tracker) == ()
    assert calls == [("open", STUDY), ("finished", TRAINED), ("failed", FAILED), ("summary", SUMMARY), ("close", None)]
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_without_trackers_no_thread_starts() -> None:
    before = threading.active_count()
    with open_trackers([], STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        assert threading.active_count() == before


@pytest.mark.parametrize("failing", ["open", "finished", "failed", "summary", "close"])
@pytest.mark.parametrize("error", [ValueError("no space"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_error_stops_the_tracking_with_one_warning_and_reaches_no_other_tracker(
    failing: str, error: BaseException, tmp_path: Path
) -> None:
    calls: list[str] = []

    def act(name: str, value: object) -> None:
        del value
        calls.append(name)
        if name == failing:
            raise error

    path = tmp_path / "events.jsonl"
    with acting(act) as tracker, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (problem,) = send(tracker, JSONLinesTracker(path=path))
    assert [str(w.message) for w in caught] == [problem]
    assert caught[0].category is TrackingWarning
    assert "'scripted' failed and receives no more events" in problem
    assert f"{type(error).__name__}: {error}" in problem
    order = ["open", "finished", "failed", "summary", "close"]
    expected = order[: order.index(failing) + 1]
    assert calls == (expected if failing in {"open", "close"} else [*expected, "close"])
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4


def test_a_slow_tracker_does_not_delay_the_study_and_receives_everything() -> None:
    calls: list[str] = []

    def act(name: str, value: object) -> None:
        del value
        time.sleep(0.1)
        calls.append(name)

    with acting(act) as tracker:
        start = time.monotonic()
        with tracker.open(STUDY) as tracking:
            for _ in range(8):
                tracking.stage_finished(TRAINED)
            delay = time.monotonic() - start
    # Together longer than `close_seconds`, but no call is.
    assert calls == ["open", *["finished"] * 8, "close"]
    assert delay < 0.1


def test_a_tracker_that_never_returns_is_given_up() -> None:
    released = threading.Event()

    def act(name: str, value: object) -> None:
        del value
        if name == "finished":
            released.wait(60)

    with acting(act) as tracker, pytest.warns(TrackingWarning, match=r"2 more events .*within 0.2 seconds") as caught:
        send(tracker)
    assert len(caught) == 1
    released.set()


def test_a_tracker_that_never_returns_does_not_keep_the_process_alive() -> None:
    code = """
import warnings, time
from typing import ClassVar, Literal
import rebasin_core as rc
from rebasin_core.tracking import StudyInfo
class Hanging(rc.Tracker):
    name: Literal["hanging"] = "hanging"
    close_seconds: ClassVar[float] = 0.1
    def _open(self, study):
        time.sleep(1000)
warnings.simplefilter("ignore")
with Hanging().open(StudyInfo("s", "name")):
    pass
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ended\n"


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "below" / "events.jsonl"
    for _ in range(2):
        assert send(JSONLinesTracker(path=path)) == ()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[:4] == lines[4:]
    assert [line["event"] for line in lines[:4]] == [
        "study_started",
        "stage_finished",
        "stage_failed",
        "study_finished",
    ]
    assert {line["study"] for line in lines} == {"s"}
    assert lines[1]["series"] == {"objective": {"values": [2.0, 1.0], "steps": None, "axis": "epoch"}}
    assert lines[1]["factors"] == {"seed": 1}
    assert lines[3]["computed"] == 1


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(TrackingWarning, match="IsADirectoryError"):
        send(JSONLinesTracker(path=tmp_path))


def test_events_are_json_and_can_be_pickled(tmp_path: Path) -> None:
    event = StageEvent(
        "curve",
        "1-2",
        "c",
        factors={"width": "wide", "options": {"t": (0.5, math.inf)}, "dtype": rc.Strategy},
        metrics={"height": math.nan},
        series={"loss": Series([0.5, -math.inf], steps=[0.0, 1.0], axis="t")},
        files={"loss.svg": tmp_path / "loss.svg"},
    )
    document = json.loads(json.dumps(event.to_json(), allow_nan=False))
    assert document["factors"] == {"width": "wide", "options": {"t": [0.5, "Infinity"]}, "dtype": str(rc.Strategy)}
    assert document["metrics"] == {"height": "NaN"}
    assert document["series"] == {"loss": {"values": [0.5, "-Infinity"], "steps": [0.0, 1.0], "axis": "t"}}
    assert document["files"] == {"loss.svg": str(tmp_path / "loss.svg")}
    assert pickle.loads(pickle.dumps(event)).to_json() == event.to_json()


def test_points_of_a_series() -> None:
    assert Series([3.0, 2.0]).points() == [(0, 3.0), (1, 2.0)]
    assert Series([3.0, 2.0], steps=[0.0, 0.5], axis="t").points() == [(0.0, 3.0), (0.5, 2.0)]


def test_integer_points_of_a_series() -> None:
    assert Series([3.0, 2.0], steps=[2.0, 5.0]).integer_points() == [(2, 3.0), (5, 2.0)]
    assert Series([3.0, 2.0], steps=[0.0, 0.25]).integer_points() == [(0, 3.0), (250, 2.0)]
    assert Series([3.0, 2.0], steps=[0.0, 1.0], axis="t").integer_points() == [(0, 3.0), (1000, 2.0)]


def test_flattened_settings() -> None:
    settings = {"a": {"b": {"c": 1}, "d": None}, "e": [1, {"f": math.inf}], "g": math.nan, "h": Path("x")}
    expected = {"a.b.c": 1, "a.d": None, "e": '[1, {"f": "Infinity"}]', "g": "NaN", "h": "x"}
    assert flattened(settings) == expected
