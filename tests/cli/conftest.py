"""Run the command in a subprocess, or, which is faster, in the test process."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from rebasin_core.cli import main

Called: TypeAlias = Callable[..., tuple[int, str, str]]


def rebasin(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as a user does."""
    command = [sys.executable, "-m", "rebasin_core", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Called:
    """Runs the command in a folder; returns exit code, output and errors."""

    monkeypatch.delenv("COLUMNS", raising=False)  # processes of pytest-xdist have it

    def call(*arguments: str, cwd: Path) -> tuple[int, str, str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["rebasin", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        known = set(sys.modules)
        try:
            main()
            code: object = 0
        except SystemExit as error:
            code = error.code
        for name in set(sys.modules) - known:
            if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == cwd:
                del sys.modules[name]
        return int(str(code or 0)), *capfd.readouterr()

    return call
