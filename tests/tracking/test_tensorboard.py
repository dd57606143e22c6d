"""Event files of TensorBoard, read back by TensorBoard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rebasin_core.errors import TrackingWarning
from rebasin_core.tracking import Series, StageEvent, StageFailure, StudyInfo, StudySummary, TensorBoardTracker

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
hparams_data = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")

STUDY = StudyInfo("3f" * 32, "widths", settings={"seeds": [1, 2]}, address="runs/store", version="0.1.0")
TRAINED = StageEvent(
    "train",
    "wide, seed 1",
    "a1" * 32,
    factors={"inference": {"kl_weight": 0.05}, "seed": 1, "none": None},
    seconds=12.5,
    device="cpu",
    threads=2,
    metrics={"final": 0.5},
    series={"objective": Series([2.0, 1.0, 0.5])},
)
MEASURED = StageEvent(
    "curve",
    "wide, 1-2/weight",
    "b2" * 32,
    factors={"matcher": "weight"},
    metrics={"height": 0.25, "height_stderr": 0.01},
    series={"loss": Series([0.1, 0.35, 0.2], steps=[0.0, 0.5, 1.0], axis="t")},
)
FAILED = StageFailure("match", "wide, 1-3", "c3" * 32, error="ValueError: a | b", attempts=3, log="line\nline 2\n")


def read(folder: Path) -> Any:
    return accumulators.EventAccumulator(str(folder)).Reload()


@pytest.fixture
def board(tmp_path: Path) -> Path:
    with TensorBoardTracker(folder=tmp_path).open(STUDY) as tracking:
        tracking.stage_finished(TRAINED)
        tracking.stage_finished(MEASURED)
        tracking.stage_failed(FAILED)
        tracking.study_finished(StudySummary(computed=2, reused=5, failed=1))
    assert tracking.problems == ()
    return tmp_path / "widths-3f3f3f3f"


def test_each_stage_is_a_run(board: Path) -> None:
    folders = sorted(str(path.parent.relative_to(board)) for path in board.rglob("events.*"))
    assert folders == [
        ".",
        "curve/wide_1-2_weight-b2b2b2b2",
        "match/wide_1-3-c3c3c3c3",
        "train/wide_seed_1-a1a1a1a1",
    ]


def test_series_are_curves_and_metrics_are_scalars(board: Path) -> None:
    found = read(board / "train" / "wide_seed_1-a1a1a1a1")
    assert [(e.step, e.value) for e in found.Scalars("train/objective")] == [(0, 2.0), (1, 1.0), (2, 0.5)]
    assert [e.value for e in found.Scalars("train/final")] == [0.5]
    assert [e.value for e in found.Scalars("stage/seconds")] == [12.5]
    found = read(board / "curve" / "wide_1-2_weight-b2b2b2b2")
    curve = [(e.step, round(e.value, 6)) for e in found.Scalars("curve/loss at 1000 t")]
    assert curve == [(0, 0.1), (500, 0.35), (1000, 0.2)]
    assert [round(e.value, 6) for e in found.Scalars("curve/height")] == [0.25]


def test_factors_are_hyperparameters(board: Path) -> None:
    found = read(board / "train" / "wide_seed_1-a1a1a1a1")
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = hparams_data.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in values.items()} == {
        "kind": "string_value",
        "inference.kl_weight": "number_value",
        "seed": "number_value",
        "none": "string_value",
    }
    assert values["inference.kl_weight"].number_value == 0.05


def test_study_and_failures_are_text(board: Path) -> None:
    (text,) = (e.tensor_proto.string_val[0].decode() for e in read(board).Tensors("summary/text_summary"))
    assert "| reused | 5 |" in text
    found = read(board / "match" / "wide_1-3-c3c3c3c3")
    (text,) = (e.tensor_proto.string_val[0].decode() for e in found.Tensors("error/text_summary"))
    assert "| error | ValueError: a &#124; b |" in text
    (text,) = (e.tensor_proto.string_val[0].decode() for e in found.Tensors("log/text_summary"))
    assert text == "    line\n    line 2"


def test_without_tensorboard_the_warning_contains_the_remedy(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["tensorboard"] = None
from rebasin_core.tracking import StudyInfo, TensorBoardTracker
with TensorBoardTracker(folder={str(tmp_path)!r}).open(StudyInfo("s", "name")):
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert TrackingWarning.__name__ in done.stderr
    assert "pip install 'rebasin-core[tensorboard]'" in done.stderr
    assert not list(tmp_path.iterdir())
