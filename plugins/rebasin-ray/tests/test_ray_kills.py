"""Processes of Ray and drivers of real studies that are killed at random moments."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("rebasin_ray")

import ray
from rebasin_ray import RayExecutor

from tests.studies.kills import kill_workers, stop_drivers, undisturbed_contents
from tests.studies.tiny import STUDY, command_of, descendants, write_study

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]

EXECUTOR = RayExecutor(tasks=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return undisturbed_contents(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def connected() -> Iterator[None]:
    """A connection for all studies: a local Ray starts slowly."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def workers() -> list[int]:
    """Return the processes of Ray that run tasks, or wait for some, without those on which the whole node depends."""
    names = ("ray::IDLE", "ray::_call")
    return [process for process in descendants(os.getpid()) if command_of(process).startswith(names)]


@pytest.mark.usefixtures("connected")
def test_processes_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    kill_workers(write_study(tmp_path), EXECUTOR, workers, undisturbed, kills=10, seed=0)


def test_a_driver_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    """Its local Ray exits with it."""
    file = write_study(tmp_path, f"{STUDY}executor: {EXECUTOR.canonical_json()}\n")
    stop_drivers(file, undisturbed, stops=10, seed=0, number=signal.SIGKILL)
