"""Trackers receive each computed stage of a study once, and cannot stop it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal, final

import pytest
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import PluginError, TrackingWarning
from rebasin_core.studies.results import read_results, write_figures
from rebasin_core.tracking import (
    AbstractRecorder,
    JSONLinesTracker,
    StageEvent,
    StageFailure,
    StudyInfo,
    StudySummary,
)


@final
class BrokenTracker(rc.Tracker):
    """Cannot be opened."""

    name: Literal["broken"] = "broken"

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        raise OSError(study.name)


@final
class FileRecorder(AbstractRecorder):
    """Keeps the content of the attached files in a dictionary."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents

    @override
    def stage_finished(self, event: StageEvent) -> None:
        pass

    @override
    def stage_failed(self, event: StageFailure) -> None:
        pass

    @override
    def study_finished(self, summary: StudySummary) -> None:
        SUMMARIES.append(summary)
        self.contents.update({name: path.read_bytes() for name, path in summary.files.items()})

    @override
    def close(self) -> None:
        pass


SUMMARIES: list[StudySummary] = []
CONTENTS: dict[str, bytes] = {}


@final
class FileTracker(rc.Tracker):
    """Uses attached files."""

    name: Literal["files"] = "files"

    @property
    @override
    def uses_files(self) -> bool:
        return True

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        return FileRecorder(CONTENTS)


@pytest.fixture
def received() -> Generator[dict[str, bytes]]:
    """Return the contents of the files that `FileTracker` receives."""
    yield CONTENTS
    CONTENTS.clear()
    SUMMARIES.clear()


def config(*trackers: rc.Tracker, levels: tuple[float, ...] = (0.1,)) -> rc.StudyConfig:
    return rc.StudyConfig(
        base={
            "data": "digits",
            "architecture": {"name": "mlp", "hidden": [4]},
            "inference": {"name": "map", "epochs": 2},
            "barrier": {"name": "pointwise", "num_points": 3},
            "num_train": 100,
            "num_test": 50,
        },
        grid={"inference.prior_scale": list(levels)},
        seeds=2,
        matchers=["weight"],
        trackers=trackers,
    )


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_computed_stage_is_sent_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tracker = JSONLinesTracker(path=path)
    rc.Study(config(tracker), tmp_path / "store").run()
    first = events(path)
    assert Counter(
        e["kind"] for e in first if e["event"] == "stage_finished" and e["kind"] not in {"data", "network"}
    ) == {
        "train": 2,
        "scores": 2,
        "match": 1,
        "curve": 2,
    }
    trained = next(e for e in first if e.get("kind") == "train")
    assert trained["factors"]["inference.prior_scale"] == 0.1
    assert len(trained["series"]["objective"]["values"]) == 2
    curve = next(e for e in first if e.get("kind") == "curve")
    assert curve["series"]["loss"]["steps"] == [0.0, 0.5, 1.0]
    assert "height" in curve["metrics"]

    rc.Study(config(tracker, levels=(0.1, 1.0)), tmp_path / "store").run()
    second = events(path)[len(first) :]
    sent = [e["id"] for e in (*first, *second) if e["event"] == "stage_finished"]
    assert len(set(sent)) == len(sent)
    assert sum(e.get("kind") == "train" for e in second) == 2

    rc.Study(config(tracker, levels=(0.1, 1.0)), tmp_path / "store").run()
    third = events(path)[len(first) + len(second) :]
    assert [e["event"] for e in third] == ["study_started", "study_finished"]
    assert third[-1]["computed"] == 0
    assert third[0]["study"] == second[0]["study"] != first[0]["study"]


def test_results_do_not_depend_on_trackers(tmp_path: Path) -> None:
    tracker = JSONLinesTracker(path=tmp_path / "events.jsonl")
    identities = [
        {stage.id for stage in rc.Study(c, tmp_path / "store").plan.graph} for c in (config(), config(tracker))
    ]
    assert identities[0] == identities[1]
    rc.Study(config(), tmp_path / "store").run()
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_broken_tracker_does_not_stop_the_study(tmp_path: Path) -> None:
    with pytest.warns(TrackingWarning, match="'broken' failed"):
        outcome = rc.Study(config(BrokenTracker()), tmp_path / "store").run()
    assert not outcome.failures
    assert not rc.Study(config(), tmp_path / "store").forecast().needed


def test_a_finished_study_sends_its_figures_and_deletes_them(tmp_path: Path, received: dict[str, bytes]) -> None:
    path = tmp_path / "events.jsonl"
    study = rc.Study(config(FileTracker(), JSONLinesTracker(path=path), levels=(0.1, 1.0)), tmp_path / "store")
    study.run()
    assert set(received) == {"barrier_inference.prior_scale.svg", "barrier_inference.prior_scale.png"}
    write_figures(read_results(study), tmp_path / "figures")
    assert (
        received["barrier_inference.prior_scale.svg"]
        == (tmp_path / "figures" / "barrier_inference.prior_scale.svg").read_bytes()
    )
    assert not any(file.exists() for file in SUMMARIES[0].files.values())
    assert events(path)[-1]["files"] == {}


def test_figures_are_drawn_only_for_new_results_and_trackers_that_use_them(
    tmp_path: Path, received: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rc.Study(config(FileTracker()), tmp_path / "store").run()
    assert received
    monkeypatch.setattr("rebasin_core.studies.study.write_figures", lambda *_: pytest.fail("they are drawn"))
    rc.Study(config(FileTracker()), tmp_path / "store").run()
    assert SUMMARIES[-1].files == {}
    rc.Study(config(JSONLinesTracker(path=tmp_path / "events.jsonl"), levels=(0.5,)), tmp_path / "store").run()


def test_a_problem_with_figures_does_not_stop_the_study(
    tmp_path: Path, received: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Path]:
        message = "figures need matplotlib"
        raise PluginError(message)

    monkeypatch.setattr("rebasin_core.studies.study.write_figures", fail)
    study = rc.Study(config(FileTracker()), tmp_path / "store")
    with pytest.warns(TrackingWarning, match="no figures are sent to trackers: figures need matplotlib"):
        assert not study.run().failures
    assert not received
    assert not study.forecast().needed
