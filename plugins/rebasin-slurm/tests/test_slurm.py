"""Executors for Slurm, with jobs as real processes of this machine."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

import rebasin_core as rc
from rebasin_core.errors import ConfigError, WorkerLostError
from rebasin_core.testing import Check, conformance_checks
from rebasin_core.testing.executor_tasks import beat, product

pytest.importorskip("submitit")
pytest.importorskip("rebasin_slurm")

from rebasin_slurm import SlurmExecutor


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[futures.Executor]:
    opened = SlurmExecutor(cluster="local", folder=tmp_path / "jobs").open()
    yield opened
    opened.shutdown(cancel_futures=True)


def started(file: Path) -> int:
    """Wait for the file of a task, and return the process of the task."""
    deadline = time.monotonic() + 30
    while not file.exists() or not file.read_text(encoding="utf-8").strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(file.read_text(encoding="utf-8").split()[0])


@pytest.mark.parametrize("check", conformance_checks("rebasin-slurm"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def test_a_killed_job_names_its_log(pool: futures.Executor, tmp_path: Path) -> None:
    lost = pool.submit(beat, str(tmp_path / "beat"), 600.0)
    other = pool.submit(product, 6, 7)
    os.kill(started(tmp_path / "beat"), signal.SIGKILL)
    with pytest.raises(WorkerLostError, match=r"job \d+ is over without a result"):
        lost.result(30)
    assert other.result(30) == "42"


def test_tasks_of_a_command_that_ignores_the_interrupt_signal_can_be_cancelled(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        with SlurmExecutor(cluster="local", folder=tmp_path / "jobs").open() as pool:
            future = pool.submit(beat, str(tmp_path / "beat"), 600.0)
            process = started(tmp_path / "beat")
            assert future.cancel()
            pool.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not Path(f"/proc/{process}").exists()
    assert not list((tmp_path / "jobs").glob("stop-*"))


def test_a_preempted_job_starts_its_task_again(pool: futures.Executor, tmp_path: Path) -> None:
    file = tmp_path / "beat"
    future = pool.submit(beat, str(file), 3.0)
    first = started(file)
    os.kill(first, signal.SIGUSR2)  # as Slurm does before it preempts a job
    assert future.result(60) is None
    assert started(file) != first


def test_a_job_whose_time_is_over_is_lost(tmp_path: Path) -> None:
    with SlurmExecutor(cluster="local", folder=tmp_path / "jobs", minutes=1).open() as pool:
        future = pool.submit(beat, str(tmp_path / "beat"), 600.0)
        # submitit regards a job as out of time from ten minutes before its limit.
        os.kill(started(tmp_path / "beat"), signal.SIGUSR2)
        with pytest.raises(WorkerLostError, match="timed-out and not checkpointable"):
            future.result(60)


def test_folder_of_jobs_is_private(pool: futures.Executor, tmp_path: Path) -> None:
    assert pool.submit(product, 6, 7).result(30) == "42"
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700
    pool.shutdown()
    assert not list((tmp_path / "jobs").glob("driver-*"))


def test_options_are_those_of_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script for Slurm, written by replacements of its commands."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in {
        "srun": "",
        "sbatch": 'cp "$1" script; echo Submitted batch job 7',
        "sacct": "",
        "scancel": "",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    executor = SlurmExecutor(
        partition="gpu", account="lab", minutes=90, cpus=4, gpus=1, memory_gb=8, parameters={"qos": "long"}
    )
    pool = executor.open()
    future = pool.submit(product, 6, 7)
    deadline = time.monotonic() + 30
    while not future.running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert future.cancel()
    pool.shutdown(cancel_futures=True)
    script = (tmp_path / "script").read_text()
    for option in (
        "partition=gpu",
        "account=lab",
        "time=90",
        "cpus-per-task=4",
        "gpus-per-node=1",
        "mem=8GB",
        "qos=long",
    ):
        assert f"#SBATCH --{option}\n" in script


def test_a_machine_without_slurm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    executor = rc.default_registry().build("executor", {"name": "slurm", "folder": tmp_path})
    assert (executor.slots, executor.task_seconds) == (16, 600)
    with pytest.raises(ConfigError, match="for a trial on this machine, set `cluster: local`"):
        executor.open()
