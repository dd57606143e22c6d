"""Studies in a local database of MLflow, read back with its client."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
pytest.importorskip("rebasin_mlflow", reason="rebasin-mlflow is not installed")

from mlflow import MlflowClient
from rebasin_mlflow import MLflowTracker

from rebasin_core.errors import ConfigError, TrackingWarning
from rebasin_core.testing import Check, conformance_checks
from rebasin_core.tracking import Series, StageEvent, StageFailure, StudyInfo, StudySummary

STUDY = StudyInfo(
    "3f" * 32, "widths", settings={"base": {"epochs": 3}, "seeds": [1, 2]}, address="runs/store", version="0.1.0"
)
TRAINED = StageEvent(
    "train",
    "wide, seed 1",
    "a1" * 32,
    factors={"inference": {"kl_weight": 0.05}, "seed": 1},
    seconds=12.5,
    device="cpu",
    threads=2,
    series={"objective": Series([2.0, math.nan, 0.5])},
)
FAILED = StageFailure("match", "wide, 1-3", "c3" * 32, error="ValueError: x", attempts=3, log="line\n")


@pytest.mark.parametrize("check", conformance_checks("rebasin-mlflow"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


@pytest.fixture
def tracker(tmp_path: Path) -> MLflowTracker:
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return MLflowTracker(tracking_uri=address, artifacts=(tmp_path / "artifacts").as_uri())


def runs(tracker: MLflowTracker) -> tuple[Any, dict[str, Any]]:
    """Return the run of the study, and the runs of the stages by kind."""
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    experiment = client.get_experiment_by_name("widths")
    found = {run.data.tags["rebasin.kind"]: run for run in client.search_runs([experiment.experiment_id])}
    study = found.pop("study")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} <= {study.info.run_id}
    return study, found


def measured(folder: Path) -> StageEvent:
    figure = folder / "loss.svg"
    figure.write_text("<svg/>")
    return StageEvent(
        "curve",
        "wide, 1-2/weight",
        "b2" * 32,
        factors={"matcher": "weight"},
        metrics={"height": 0.25, "height_stderr": 0.01},
        series={"loss": Series([0.1, 0.35, 0.2], steps=[0.0, 0.5, 1.0], axis="t")},
        files={"loss.svg": figure, "missing.svg": folder / "missing.svg"},
    )


def test_stages_are_nested_runs(tracker: MLflowTracker, tmp_path: Path) -> None:
    with tracker.open(STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        tracking.stage_finished(measured(tmp_path))
        tracking.study_finished(StudySummary(computed=2, reused=5))
    assert tracking.problems == ()
    study, stages = runs(tracker)
    assert study.info.status == "FINISHED"
    assert study.data.params == {"base.epochs": "3", "seeds": "[1, 2]"}
    assert study.data.tags["rebasin.study"] == STUDY.id
    assert study.data.metrics["computed"] == 2
    assert study.data.metrics["reused"] == 5
    train, curve = stages["train"], stages["curve"]
    assert train.data.params == {"kind": "train", "inference.kl_weight": "0.05", "seed": "1"}
    assert train.info.run_name == "wide, seed 1"
    assert train.data.tags["rebasin.stage"] == TRAINED.id
    assert train.data.metrics["seconds"] == pytest.approx(12.5)
    assert train.info.end_time - train.info.start_time >= 12_400
    assert curve.data.metrics["height"] == pytest.approx(0.25)
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    history = [(m.step, m.value) for m in client.get_metric_history(train.info.run_id, "objective")]
    assert sorted(history)[::2] == [(0, 2.0), (2, 0.5)]
    assert math.isnan(sorted(history)[1][1])
    history = [(m.step, m.value) for m in client.get_metric_history(curve.info.run_id, "loss at 1000 t")]
    assert sorted(history) == [(0, 0.1), (500, 0.35), (1000, 0.2)]
    assert [file.path for file in client.list_artifacts(curve.info.run_id)] == ["loss.svg"]
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("loss.svg")] == ["<svg/>"]


def test_figures_of_the_study_are_artifacts_of_its_run(tracker: MLflowTracker, tmp_path: Path) -> None:
    figure = tmp_path / "barrier.svg"
    figure.write_text("<svg/>")
    summary = StudySummary(computed=1, files={"barrier.svg": figure, "missing.svg": tmp_path / "missing.svg"})
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    for attach_files, expected in ((False, []), (True, ["barrier.svg"])):
        one = tracker.replace(attach_files=attach_files)
        assert one.uses_files is attach_files
        with one.open(STUDY) as tracking:
            tracking.study_finished(summary)
        assert tracking.problems == ()
        study, _ = runs(tracker)
        assert [file.path for file in client.list_artifacts(study.info.run_id)] == expected
        assert study.info.status == "FINISHED"


def test_a_second_connection_continues_the_run_of_the_study(tracker: MLflowTracker, tmp_path: Path) -> None:
    with tracker.open(STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        tracking.study_finished(StudySummary(computed=1, blocked=1, interrupted=True))
    study, stages = runs(tracker)
    assert study.info.status == "KILLED"
    assert stages.keys() == {"train"}
    with tracker.open(STUDY) as tracking:
        tracking.stage_finished(measured(tmp_path))
        tracking.study_finished(StudySummary(computed=1, reused=1))
    again, stages = runs(tracker)
    assert again.info.run_id == study.info.run_id
    assert again.info.status == "FINISHED"
    assert stages.keys() == {"train", "curve"}


def test_failed_stages_have_their_error_and_log(tracker: MLflowTracker) -> None:
    with tracker.open(STUDY) as tracking:
        tracking.stage_failed(FAILED)
        tracking.study_finished(StudySummary(computed=0, failed=1))
    study, stages = runs(tracker)
    assert study.info.status == stages["match"].info.status == "FAILED"
    assert stages["match"].data.tags["rebasin.error"] == "ValueError: x"
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    assert [file.path for file in client.list_artifacts(stages["match"].info.run_id)] == ["log.txt"]


def test_a_study_without_summary_is_killed(tracker: MLflowTracker) -> None:
    with tracker.open(STUDY):
        pass
    assert runs(tracker)[0].info.status == "KILLED"


@pytest.mark.parametrize("name", ["a/../b", "/a", "..", ".", "", "a//b", "loss (é)", "x" * 300, "a/"])
def test_any_name_is_accepted(tracker: MLflowTracker, name: str) -> None:
    event = StageEvent("curve", name, "d4" * 32, factors={name: name}, metrics={name: 1.0})
    with tracker.open(STUDY) as tracking:
        tracking.stage_finished(event)
    assert tracking.problems == ()
    assert len(runs(tracker)[1]["curve"].data.metrics) == 2


def test_many_values_are_sent_in_batches(tracker: MLflowTracker) -> None:
    factors = {f"option{k}": k for k in range(250)}
    event = StageEvent(
        "train", "s", "d4" * 32, factors=factors, series={"objective": Series([float(k) for k in range(2500)])}
    )
    with tracker.open(STUDY) as tracking:
        tracking.stage_finished(event)
    assert tracking.problems == ()
    run = runs(tracker)[1]["train"]
    assert len(run.data.params) == 251
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    assert len(client.get_metric_history(run.info.run_id, "objective")) == 2500


def test_an_unreachable_server_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # No server listens on this port of the loopback address.
    tracker = MLflowTracker(tracking_uri="http://127.0.0.1:9")
    with pytest.warns(TrackingWarning, match="'mlflow' failed") as caught, tracker.open(STUDY) as tracking:
        tracking.stage_finished(TRAINED)
    assert len(caught) == 1


def test_passwords_are_not_options() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        MLflowTracker(tracking_uri="http://user:secret@localhost:5000")


def test_listing_trackers_does_not_import_mlflow() -> None:
    code = "import sys, rebasin_core as rc; print(rc.default_registry().names('tracker'), 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'mlflow'" in done.stdout
    assert done.stdout.split()[-1] == "False"
