"""Studies in the files that the client writes offline, read back record by record."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="wandb is not installed")
pytest.importorskip("rebasin_wandb", reason="rebasin-wandb is not installed")

import wandb
from rebasin_wandb import WandbTracker
from wandb.proto.wandb_internal_pb2 import Record

from rebasin_core.errors import TrackingWarning
from rebasin_core.testing import Check, conformance_checks
from rebasin_core.tracking import Series, StageEvent, StageFailure, StudyInfo, StudySummary

STUDY = StudyInfo("3f" * 32, "widths", settings={"seeds": [1, 2]}, address="runs/store", version="0.1.0")
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


@pytest.mark.parametrize("check", conformance_checks("rebasin-wandb"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, in the format of LevelDB's logs: chunks in blocks of 32 KiB after a header."""
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    position, parts = 7, b""
    while position + 7 <= len(content):
        if (room := 32768 - position % 32768) < 7:  # too little for the header of a chunk
            position += room
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if position > len(content):  # not yet written completely
            return
        if kind in {1, 4}:  # a whole record, or its last chunk
            yield Record.FromString(parts)
            parts = b""


def complete(path: Path) -> list[Record]:
    """Return the records of a file once the last one is written: the client's process writes them after `finish`."""
    for _ in range(600):
        found = list(records(path)) if path.stat().st_size else []
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise TimeoutError(path)


def nested(found: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        found = found.setdefault(key, {})
    found[keys[-1]] = value


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return run, configuration, summary, history and exit code of the runs in a folder, by their names."""
    runs = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "exit": None}
        for record in complete(path):
            if record.HasField("run"):
                found |= {"id": record.run.run_id, "group": record.run.run_group, "kind": record.run.job_type}
                found |= {"name": record.run.display_name, "project": record.run.project}
                found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in record.summary.update:
                nested(found["summary"], list(item.nested_key) or [item.key], json.loads(item.value_json))
            if record.history.item:
                row = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                found["history"].append({key: value for key, value in row.items() if not key.startswith("_")})
            if record.HasField("exit"):
                found["exit"] = record.exit.exit_code
        runs[found["name"]] = found
    return runs


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


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    with WandbTracker(mode="offline", folder=tmp_path).open(STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        tracking.stage_finished(measured(tmp_path))
        tracking.stage_failed(FAILED)
        tracking.study_finished(StudySummary(computed=2, reused=5, failed=1))
    assert tracking.problems == ()
    return read(tmp_path)


def test_each_stage_is_a_run_in_the_group_of_the_study(runs: dict[str, dict[str, Any]]) -> None:
    assert {name: run["kind"] for name, run in runs.items()} == {
        "widths": "study",
        "wide, seed 1": "train",
        "wide, 1-2/weight": "curve",
        "wide, 1-3": "match",
    }
    assert {run["group"] for run in runs.values()} == {"widths-3f3f3f3f"}
    assert {run["project"] for run in runs.values()} == {"widths"}
    assert runs["wide, seed 1"]["id"] == "train-" + "a1" * 12


def test_study_has_its_settings_and_counts(runs: dict[str, dict[str, Any]]) -> None:
    study = runs["widths"]
    assert study["config"]["settings"] == {"seeds": [1, 2]}
    assert study["config"]["store"] == "runs/store"
    assert study["summary"]["computed"] == 2
    assert study["summary"]["reused"] == 5


def test_factors_are_configuration_and_results_are_summary(runs: dict[str, dict[str, Any]]) -> None:
    trained, curve = runs["wide, seed 1"], runs["wide, 1-2/weight"]
    assert trained["config"]["inference"] == {"kl_weight": 0.05}
    assert trained["config"]["seed"] == 1
    assert trained["config"]["stage"] == {"id": TRAINED.id, "device": "cpu", "threads": 2}
    assert trained["summary"]["seconds"] == pytest.approx(12.5)
    assert curve["summary"]["height"] == pytest.approx(0.25)
    assert trained["exit"] == curve["exit"] == 0


def test_series_have_their_own_axes(runs: dict[str, dict[str, Any]]) -> None:
    history = runs["wide, seed 1"]["history"]
    assert [row["objective/epoch"] for row in history] == [0, 1, 2]
    assert [row["objective"] for row in history][::2] == [2.0, 0.5]
    assert math.isnan(float(history[1]["objective"]))
    loss = [(row["loss/t"], row["loss"]) for row in runs["wide, 1-2/weight"]["history"] if "loss" in row]
    assert loss == [(0.0, 0.1), (0.5, 0.35), (1.0, 0.2)]


def test_figures_are_attached(tmp_path: Path, runs: dict[str, dict[str, Any]]) -> None:
    (row,) = (row for row in runs["wide, 1-2/weight"]["history"] if any(key.startswith("loss.svg") for key in row))
    assert row
    (page,) = (tmp_path / "wandb").rglob("*.html")
    assert "<svg/>" in page.read_text()


@pytest.mark.parametrize("attach_files", [True, False])
def test_figures_of_the_study_are_attached_to_its_run(tmp_path: Path, *, attach_files: bool) -> None:
    figure = tmp_path / "barrier.svg"
    figure.write_text("<svg/>")
    summary = StudySummary(computed=1, files={"barrier.svg": figure, "missing.svg": tmp_path / "missing.svg"})
    tracker = WandbTracker(mode="offline", folder=tmp_path, attach_files=attach_files)
    assert tracker.uses_files is attach_files
    with tracker.open(STUDY) as tracking:
        tracking.study_finished(summary)
    assert tracking.problems == ()
    study = read(tmp_path)["widths"]
    attached = [row for row in study["history"] if any(key.startswith("barrier.svg") for key in row)]
    assert len(attached) == attach_files
    assert ["<svg/>" in page.read_text() for page in (tmp_path / "wandb").rglob("*.html")] == [True] * attach_files
    assert study["summary"]["computed"] == 1
    assert "files" not in study["summary"]


def test_failed_stages_are_failed_runs(runs: dict[str, dict[str, Any]]) -> None:
    failed = runs["wide, 1-3"]
    assert failed["exit"] == 1
    assert failed["summary"]["error"] == "ValueError: x"
    assert failed["summary"]["log"] == "line\n"


def test_the_machine_is_not_recorded(tmp_path: Path, runs: dict[str, dict[str, Any]]) -> None:
    del runs
    names = {path.name for path in (tmp_path / "wandb").rglob("*") if path.is_file()}
    assert not names & {"requirements.txt", "wandb-metadata.json", "output.log", "conda-environment.yaml"}


def test_without_login_the_warning_contains_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(wandb.api), "api_key", None)
    with pytest.warns(TrackingWarning, match="run `wandb login`"), WandbTracker(folder=tmp_path).open(STUDY):
        pass
    assert not list(tmp_path.iterdir())


def test_listing_trackers_does_not_import_wandb() -> None:
    code = "import sys, rebasin_core as rc; print(rc.default_registry().names('tracker'), 'wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'wandb'" in done.stdout
    assert done.stdout.split()[-1] == "False"
