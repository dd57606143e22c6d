"""Jobs and drivers of real studies that are killed at random moments, with jobs as processes of this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("submitit")
pytest.importorskip("rebasin_slurm")

from rebasin_slurm import SlurmExecutor

from tests.studies.kills import kill_workers, stop_drivers, undisturbed_contents
from tests.studies.tiny import STUDY, command_of, descendants, wait_until, write_study

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return undisturbed_contents(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def executor(tmp_path: Path) -> SlurmExecutor:
    """Two jobs at a time with a few stages each; after a kill, each of these stages has its own job."""
    return SlurmExecutor(cluster="local", jobs=2, folder=tmp_path / "jobs", task_seconds=3)


def jobs() -> list[int]:
    """Return the processes of jobs, and those that submitit starts to watch them."""
    return [process for process in descendants(os.getpid()) if "submitit" in command_of(process)]


def test_jobs_killed_at_random_moments(executor: SlurmExecutor, tmp_path: Path, undisturbed: dict[str, object]) -> None:
    kill_workers(write_study(tmp_path), executor, jobs, undisturbed, kills=10, seed=0)
    wait_until(lambda: not jobs())


def test_a_driver_killed_at_random_moments(
    executor: SlurmExecutor, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    file = write_study(tmp_path, f"{STUDY}executor: {executor.canonical_json()}\n")
    stop_drivers(file, undisturbed, stops=10, seed=0, number=signal.SIGKILL)
