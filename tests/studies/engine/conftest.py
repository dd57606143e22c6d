"""Fixtures of the tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_core.studies.engine import scheduler
from rebasin_core.studies.store import Store
from tests.studies.engine.faulty import (
    Lab,
    Recorder,
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, whose users look at each other more often than usual."""
    monkeypatch.setattr(scheduler, "_POLL", 0.02)
    return Store.open(tmp_path / "store")


@pytest.fixture
def lab(store: Store) -> Lab:
    return Lab(store)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()
