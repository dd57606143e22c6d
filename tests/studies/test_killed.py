"""Runs that are killed in different stages, and resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")
def test_a_killed_run_is_resumed_to_the_same_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.studies.killed_runs", str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "unaligned" in done.stdout
    assert "Traceback" not in done.stderr
    assert (tmp_path / "killed" / "report.html").is_file()
