"""Runs that are killed at different times, and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from rebasin_core.studies.store import Store

TEXT = """
data: digits
architecture: {name: mlp, hidden: [64]}
inference: {name: mean_field_vi, epochs: 6, optimizer: {name: Adam, lr: 0.01}}
matchers: [weight]
barrier: {name: marginalized, num_points: 5, num_samples: 8}
batch_size: 16
"""


def start(folder: Path, output: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rebasin_core", "run", str(folder / "run.yaml"), "-o", str(folder / output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def whole(path: Path) -> bool:
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as handle:
            return bool(list(handle.keys()))
    return True


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not {"stages", "store"} & set(p.relative_to(folder).parts)
    }


def results(folder: Path) -> dict[str, str]:
    store = Store.open(folder / "store")
    return {identity: store.read(identity).digest for identity in store.ids()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_is_resumed_to_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(TEXT)
    uninterrupted = start(tmp_path, "whole")
    output, errors = uninterrupted.communicate(timeout=100)
    assert uninterrupted.returncode == 0, errors.decode()
    assert b"unaligned" in output
    # The delays after the folder appears differ, to kill the run in different stages.
    for delay in (0.0, 0.5, 1.5):
        process = start(tmp_path, "killed")
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = [p for p in (tmp_path / "killed").rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert all(whole(path) for path in found)
    last = start(tmp_path, "killed")
    _, errors = last.communicate(timeout=100)
    assert last.returncode == 0, errors.decode()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
