"""Trackers receive each computed stage of a study once, and cannot stop it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, final

import pytest
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import TrackingWarning
from rebasin_core.tracking import AbstractRecorder, JSONLinesTracker, StudyInfo


@final
class BrokenTracker(rc.Tracker):
    """Cannot be opened."""

    name: Literal["broken"] = "broken"

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        raise OSError(study.name)


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
