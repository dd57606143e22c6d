"""Runs that are killed in different stages, and resumed: a program for `test_killed.py`.

    python -m tests.studies.killed_runs FOLDER

The runs are child processes of this one, which has imported all modules. It fails if a killed run leaves a damaged
file, or if the resumed run differs from an undisturbed one in any byte.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from rebasin_core.cli import main as rebasin
from rebasin_core.studies.store import Store
from tests.studies.tiny import wait_until

TEXT = """
data: digits
architecture: {name: mlp, hidden: [64]}
inference: {name: mean_field_vi, epochs: 3, optimizer: {name: Adam, lr: 0.01}}
matchers: [weight]
barrier: {name: marginalized, num_points: 3, num_samples: 4}
batch_size: 16
"""


def run(folder: Path, output: str) -> int:
    """Run the command in this process; return its exit code."""
    sys.argv = ["rebasin", "run", str(folder / "run.yaml"), "-o", str(folder / output)]
    try:
        rebasin()
    except SystemExit as ended:
        return int(str(ended.code or 0))
    return 0


def started(folder: Path, output: str) -> int:
    """Run the command in a child process; return its process id."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = run(folder, output)
        finally:
            os._exit(code)
    return child


def has_ended(child: int) -> bool:
    """Return whether a child process has ended, without removing it from the table of processes."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_when(child: int, is_reached: Callable[[], bool]) -> None:
    """Kill a child process at a stage; if it is too fast for that, it finishes."""
    wait_until(lambda: is_reached() or has_ended(child))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def is_whole(path: Path) -> bool:
    """Return whether a file is complete, or raise the error of its reader."""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as handle:
            return bool(list(handle.keys()))
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files outside the store."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not {"stages", "store"} & set(p.relative_to(folder).parts)
    }


def results(folder: Path) -> dict[str, str]:
    """Return the digests of all artifacts in the store."""
    store = Store.open(folder / "store")
    return {identity: store.read(identity).digest for identity in store.ids()}


def is_training(folder: Path) -> bool:
    """Return whether the state of a training is stored."""
    return any((folder / "store" / "unfinished").rglob("*.safetensors"))


def has_a_match(folder: Path) -> bool:
    """Return whether the networks are trained and matched."""
    store = Store.open(folder / "store")
    return any(artifact.kind == "match" for artifact in store.read_many(store.ids()).values())


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # threads do not survive a fork
    (folder / "run.yaml").write_text(TEXT)
    assert run(folder, "whole") == 0
    killed = folder / "killed"
    for is_reached in (is_training, has_a_match):
        kill_when(started(folder, "killed"), partial(is_reached, killed))
        found = [p for p in killed.rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert all(is_whole(path) for path in found)
    assert run(folder, "killed") == 0
    assert contents(killed) == contents(folder / "whole")
    assert results(killed) == results(folder / "whole")


if __name__ == "__main__":
    main()
