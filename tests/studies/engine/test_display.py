"""Lines that show the progress of stages in a log file."""

from __future__ import annotations

import sys

import pytest

from rebasin_core.studies.engine.display import Display, StageLines, stage_display
from rebasin_core.studies.engine.observer import Failure
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Artifact


def test_a_log_has_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("train", "{}", "{}", (), (), (), label="train reference")
    shown = stage_display()
    assert isinstance(shown, StageLines)
    shown.started(5, 2)
    shown.finished(stage, Artifact(stage.id, stage.document, {}, {}, {"seconds": 61.25}))
    shown.failed(Failure(stage, "DivergenceError", "training diverged"))
    shown.finished(stage, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 of 5 stages to compute"
    assert lines[1].startswith("[1/2] train reference: 61.2 s (elapsed: ")
    assert "training diverged" in lines[2]
    assert lines[3].startswith("[2/2] train reference: by another command")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(stage_display(), Display)
