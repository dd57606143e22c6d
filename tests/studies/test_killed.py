"""Runs that are killed in different stages, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open

from rebasin_core.studies.store import Store
from tests.cli import conftest as cli
from tests.cli.conftest import Called
from tests.studies.tiny import wait_until

called = cli.called  # the fixture

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


def is_training(folder: Path) -> bool:
    """Return whether the state of a training is stored."""
    return any((folder / "store" / "unfinished").rglob("*.safetensors"))


def has_a_match(folder: Path) -> bool:
    """Return whether the networks are trained and matched."""
    store = Store.open(folder / "store")
    return any(artifact.kind == "match" for artifact in store.read_many(store.ids()).values())


def kill_when(process: subprocess.Popen[bytes], is_reached: Callable[[], bool]) -> None:
    wait_until(lambda: is_reached() or process.poll() is not None)
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_is_resumed_to_the_same_files(tmp_path: Path, called: Called) -> None:
    (tmp_path / "run.yaml").write_text(TEXT)
    code, output, errors = called("run", "run.yaml", "-o", "whole", cwd=tmp_path)
    assert code == 0, errors
    assert "unaligned" in output
    killed = tmp_path / "killed"
    for is_reached in (is_training, has_a_match):
        kill_when(start(tmp_path, "killed"), partial(is_reached, killed))
        found = [p for p in killed.rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert all(whole(path) for path in found)
    code, _, errors = called("run", "run.yaml", "-o", "killed", cwd=tmp_path)
    assert code == 0, errors
    assert contents(killed) == contents(tmp_path / "whole")
    assert results(killed) == results(tmp_path / "whole")
