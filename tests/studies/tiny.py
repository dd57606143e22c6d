"""A study of about one second, commands that compute it, and the processes of these commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rebasin_core.studies.store import Store
from rebasin_core.studies.study import Study, load_study

# Regression: scikit-learn, which has the digits, needs a second for its import.
RUN = """
data: {name: uci, dataset: toy, root: ROOT}
architecture: {name: mlp, hidden: [8]}
inference: {name: map, epochs: 1, optimizer: {name: Adam, lr: 0.01}}
matchers: [weight]
barrier: {name: pointwise, num_points: 3}
batch_size: 50
"""

STUDY = """
base: run.yaml
seeds: 3
scores: true
matchers: {weight: weight, from_identity: {name: weight, start: identity}}
retries: 2
"""
TOTAL = 24
"""Number of its stages."""
ROOT = Path(__file__).parents[2]
SECONDS = 120.0
"""Time after which a command of this study has certainly hung."""


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Write the files of the study, and return the path of the study file."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6))
    np.savez(folder / "toy.npz", x=x, y=np.tanh(x[:, 0]) * x[:, 1], test_index=np.arange(100)[None])
    (folder / "run.yaml").write_text(RUN.replace("ROOT", json.dumps(str(folder))), encoding="utf-8")
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return folder / "study.yaml"


def opened(file: Path, store: Path | str, **changes: Any) -> Study:
    """Return the study of a file, with changes of options that do not change results."""
    config = load_study(file)
    return Study(type(config).model_validate({**dict(config), **changes}), store, name=str(file))


def contents(store: Path | str) -> dict[str, object]:
    """Return the digests of all artifacts, and the bytes of all files."""
    found = Store.open(store)
    digests: dict[str, object] = {identity: found.read(identity).digest for identity in found.ids()}
    blobs = Path(store) / "blobs"
    return digests | {path.name: path.read_bytes() for path in blobs.rglob("*") if path.is_file()}


def remains(store: Path | str) -> list[str]:
    """Return the files of leases and sessions."""
    folders = [Path(store) / name for name in ("leases", "sessions")]
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


def _fields(process: Path) -> list[str]:
    """Return the state, the parent, ... of a process."""
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def workers_of(driver: int) -> list[int]:
    """Return the worker processes of a process."""
    return [process for process in children_of()[driver] if "rebasin_core.executors.worker" in command_of(process)]


def children_of() -> defaultdict[int, list[int]]:
    """Return the running processes by their parents."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                state, parent = _fields(process)[:2]
                if state != "Z":
                    found[int(parent)].append(int(process.name))
    return found


def descendants(process: int) -> list[int]:
    """Return the running processes that a process has started, and those that they have started."""
    found = children_of()[process]
    return [*found, *(each for child in found for each in descendants(child))]


def command_of(process: int) -> str:
    """Return the command line of a process; empty if it has exited."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_running(process: int) -> bool:
    try:
        return _fields(Path(f"/proc/{process}"))[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it exceeds the time limit"
        time.sleep(0.02)


def count(store: Path | str) -> int:
    """Return the number of stored artifacts."""
    return len(Store.open(store).ids())


REBASIN = ("-m", "rebasin_core")
DISTURBED = ("-c", "from tests.studies.disturbed import main; main()")
"""The same with tasks that follow the orders of `tests.studies.disturbed`."""


@contextmanager
def command(
    file: Path, store: Path, *options: str, program: tuple[str, str] = REBASIN
) -> Generator[subprocess.Popen[bytes]]:
    """Start `rebasin study` in two processes; whatever happens, it and its workers have ended afterwards."""
    arguments = [sys.executable, *program, "study", str(file), "--store", str(store), *options]
    # A shell's background jobs, and their child processes, ignore the signal by default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    finally:
        signal.signal(signal.SIGINT, before)
    workers: set[int] = set()
    try:
        yield process
        workers.update(descendants(process.pid))
    finally:
        process.kill()
        process.communicate()
        try:
            wait_until(lambda: not any(map(is_running, workers)), 20)
        finally:
            for worker in filter(is_running, workers):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
