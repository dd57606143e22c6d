"""Unfinished outputs of killed runs are removed by the next run of the same output, and by no other."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rebasin_core.checkpoints.unfinished import unfinished_folder
from rebasin_core.tensors.files import is_unfinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
KILLED = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from rebasin_core.checkpoints.unfinished import unfinished_folder
with ExitStack() as stack:
    for target in sys.argv[1:]:
        folder = stack.enter_context(unfinished_folder(Path(target)))
        (folder / "model.safetensors").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill(*targets: Path) -> None:
    """Kill a process that writes outputs."""
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, targets)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_folders_are_removed_afterwards(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "new" / "model") as folder:
        assert folder.parent == tmp_path / "new"
        assert is_unfinished(folder.name)
        (folder / "a").write_text("x")
    assert not list((tmp_path / "new").iterdir())


def test_renamed_folders_remain(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "model") as folder:
        folder.rename(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_killed_runs_are_removed_for_the_same_output_only(tmp_path: Path) -> None:
    kill(tmp_path / "model", tmp_path / "other")
    assert len(list(tmp_path.iterdir())) == 2
    with unfinished_folder(tmp_path / "model") as folder:
        assert folder.is_dir()
    leftovers = list(tmp_path.iterdir())
    assert len(leftovers) == 1
    with unfinished_folder(tmp_path / "other"):
        pass
    assert not list(tmp_path.iterdir())


def test_two_active_runs_of_one_output_do_not_share_a_folder(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "model") as first, unfinished_folder(tmp_path / "model") as second:
        (second / "a").write_text("second")
        assert first.is_dir()
        assert not list(first.iterdir())


def test_files_of_others_are_not_removed(tmp_path: Path) -> None:
    for name in (".rebasin-other.part", "rebasin.part", ".model.part"):
        (tmp_path / name).mkdir()
    with unfinished_folder(tmp_path / "model"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".rebasin-other.part", "rebasin.part", ".model.part"}
