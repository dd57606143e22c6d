"""Fixture: a virtual environment with valid and broken plugins, which `REBASIN_PLUGINS` selects."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.plugin.environment import DISTRIBUTIONS, EXAMPLE, ROOT, Environment, create


@pytest.fixture(scope="session")
def shared_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the environment, which the first process of pytest-xdist creates for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "environment"
    with (shared / "environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            create(folder, [ROOT, EXAMPLE, *sorted(path for path in DISTRIBUTIONS.iterdir() if path.is_dir())])
            (folder / "complete").touch()
    return folder


@pytest.fixture
def environment(shared_environment: Path, tmp_path: Path) -> Environment:
    return Environment(shared_environment / "bin" / "python", tmp_path)
