"""Progress in a terminal and in a log file."""

from __future__ import annotations

import io
import sys

import pytest
from typing_extensions import override

from rebasin_core.tensors import progress
from rebasin_core.tensors.progress import StepProgress


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_per_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "monotonic", iter(range(0, 100, 10)).__next__)  # 10 seconds a step
    with StepProgress(3, done=1, label="train", unit="epoch", is_shown=True) as shown:
        shown.advance("loss 2.0")
        shown.advance("loss 1.0")
    assert capsys.readouterr().err == "train: epoch 2/3, loss 2.0, 10 s\ntrain: epoch 3/3, loss 1.0, 20 s\n"


def test_short_steps_have_few_lines_and_the_last_step_has_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "monotonic", iter(k / 4 for k in range(100)).__next__)  # 4 steps a second
    with StepProgress(10, is_shown=True) as shown:
        for _ in range(10):
            shown.advance("ok")
    steps = [line.split("/")[0] for line in capsys.readouterr().err.splitlines()]
    assert steps == ["step 1", "step 5", "step 9", "step 10"]


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with StepProgress(2, label="train", unit="epoch", is_shown=True) as shown:
        shown.advance("loss 2.0")
        shown.advance("loss 1.0")
    assert "train: 100%" in terminal.getvalue()
    assert "epoch 1/2" not in terminal.getvalue()


def test_hidden_progress_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with StepProgress(2, is_shown=False) as shown:
        shown.advance("loss")
    assert capsys.readouterr() == ("", "")
