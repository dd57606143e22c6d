"""Fixture: a new virtual environment with installed distributions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.environment import ROOT, Environment


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    def make(*sources: Path) -> Environment:
        environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
        environment.install(ROOT, *sources)
        return environment

    return make
