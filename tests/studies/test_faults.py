"""Faults of real studies: killed and hanging workers, killed drivers, full disks, damage, clocks, interruptions.

After each fault the same command finishes the study, and its results equal those of an undisturbed study.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typing_extensions import override

from rebasin_core.executors import ProcessesExecutor
from rebasin_core.studies.engine import scheduler, worker
from rebasin_core.studies.engine.observer import Observer
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Artifact, Store
from tests.cli import conftest as cli
from tests.cli.conftest import Called
from tests.studies.disturbed import FOLDER, disturb, process_of, replace_task
from tests.studies.kills import kill_workers, stop_drivers
from tests.studies.tiny import (
    DISTURBED,
    SECONDS,
    STUDY,
    TOTAL,
    command,
    contents,
    count,
    is_running,
    opened,
    remains,
    wait_until,
    workers_of,
    write_study,
)

called = cli.called  # the fixture

pytestmark = pytest.mark.timeout(300)  # if the machine has other work

WORKERS = ProcessesExecutor(workers=2, threads=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of an undisturbed study."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = opened(write_study(folder), folder / "store").run()
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    assert count(folder / "store") == len(outcome.computed) + 1  # the network was computed before, as a check
    assert count(folder / "store") == TOTAL
    return contents(folder / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_study(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def disturbances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the orders to tasks."""
    (tmp_path / "disturbances").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "disturbances"))
    return tmp_path / "disturbances"


class Retries(Observer):
    """Keeps the reasons of retries."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    @override
    def retried(self, stage: Stage, reason: str) -> None:
        self.reasons.append(reason)


class Clock:
    """A clock on which a day passes at each reading, as long as the process of one task exists."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._now = 0.0

    def __call__(self) -> float:
        process = process_of(self._folder, self._number)
        if process is not None and is_running(process):
            self._now += 86_400.0
        return self._now


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_hanging_workers(
    file: Path, undisturbed: dict[str, object], disturbances: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A worker that the system has stopped hangs, as far as the driver can see."""
    store = file.parent / "store"
    disturb(disturbances, {3: "killed", 8: "hanging"})
    replace_task(monkeypatch)
    monkeypatch.setattr(scheduler, "monotonic", Clock(disturbances, 8))
    seen = Retries()
    # The clock also exceeds the timeout of another running task, perhaps several times.
    executor = ProcessesExecutor(workers=workers, threads=1)
    outcome = opened(file, store, timeout=3600.0, retries=100).run(executor=executor, observers=[seen])
    assert (outcome.failures, outcome.blocked, outcome.unfinished) == ({}, (), 0)
    assert any("killed by SIGKILL" in reason for reason in seen.reasons)
    assert any("the timeout of 3600 s" in reason for reason in seen.reasons)
    assert not any(is_running(process_of(disturbances, number) or 0) for number in (3, 8))
    assert not workers_of(os.getpid())
    assert contents(store) == undisturbed
    assert not remains(store)


def test_a_killed_driver(file: Path, store: Path, undisturbed: dict[str, object]) -> None:
    with command(file, store, "--workers", "2") as process:
        wait_until(lambda: count(store) >= 3 or process.poll() is not None)
        workers = workers_of(process.pid)
        process.kill()
        process.communicate(timeout=SECONDS)
        wait_until(lambda: not any(map(is_running, workers)))
    assert 3 <= count(store) <= TOTAL
    outcome = opened(file, store).run()
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    assert contents(store) == undisturbed


def test_an_interruption(file: Path, store: Path, undisturbed: dict[str, object], disturbances: Path) -> None:
    disturb(disturbances, {6: "held"})
    with command(file, store, "--workers", "1", program=DISTURBED) as process:
        wait_until((disturbances / "held").exists)
        workers = workers_of(process.pid)
        assert workers == [process_of(disturbances, 6)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert b"run the same command again to continue" in errors
        wait_until(lambda: not any(map(is_running, workers)))
    assert not remains(store)
    assert count(store) == 6  # the network, and five tasks
    assert not opened(file, store).run().failures
    assert contents(store) == undisturbed


class Releasing(Observer):
    """Lets a held task continue after the first stage."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "released"

    @override
    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        self._file.touch()


@pytest.mark.nightly
def test_two_commands_at_the_same_time(
    file: Path, store: Path, undisturbed: dict[str, object], disturbances: Path
) -> None:
    disturb(disturbances, {4: "held"})
    with command(file, store, program=DISTURBED) as process:
        wait_until((disturbances / "held").exists)
        outcome = opened(file, store).run(observers=[Releasing(disturbances)])
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors.decode()
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    # Each stage was computed once, by one of them; the network before, by the command.
    others = int(output.decode().rpartition("Computed ")[2].split()[0])
    assert others + len(outcome.computed) == TOTAL - 1
    assert others >= 4
    assert outcome.computed
    assert contents(store) == undisturbed
    assert not remains(store)


DIVERGING = (
    STUDY
    + """
variants:
  good: {inference.prior_scale: 1.0}
  bad: {inference.optimizer: {name: SGD, lr: 1.0e+30}}
"""
)


def test_a_diverged_training(tmp_path: Path, store: Path, called: Called) -> None:
    file = write_study(tmp_path, DIVERGING)
    study = opened(file, store)
    outcome = study.run()
    plan = study.plan
    cells = {index for index, (cell, _) in enumerate(plan.cells) if cell.label.endswith("bad")}
    bad = {posterior.stage for posterior in plan.posteriors if posterior.cell in cells}
    assert outcome.failures.keys() == bad
    assert {(f.error, f.attempts, f.is_permanent) for f in outcome.failures.values()} == {("DivergenceError", 1, True)}
    blocked = {result.stage for result in plan.results if result.cell in cells} - bad
    blocked |= {curve.match for curve in plan.curves if curve.cell in cells} - {""}
    assert set(outcome.blocked) == blocked
    assert outcome.unfinished == 0
    assert Store.open(store).ids() == {stage.id for stage in study.plan.graph} - bad - blocked

    again = opened(file, store).run()
    assert not again.computed
    assert again.failures.keys() == bad
    tried = opened(file, store).run(retry_failed=True)
    assert {f.attempts for f in tried.failures.values()} == {1}
    code, _, errors = called("study", str(file), "--store", str(store), cwd=tmp_path)
    assert (code, "3 stages failed, and" in errors) == (1, True)
    code, printed, _ = called("store", "log", min(bad)[:8], str(store), cwd=tmp_path)
    assert (code, "DivergenceError: " in printed, "Traceback" in printed) == (0, True, True)


def test_a_full_disk(file: Path, store: Path, undisturbed: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync
    calls = iter(range(10**6))

    def full(handle: int) -> None:
        if next(calls) in range(20, 50):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    study = opened(file, store)
    monkeypatch.setattr(os, "fsync", full)
    outcome = study.run()
    monkeypatch.undo()
    assert outcome.failures
    assert {(f.error, f.attempts, f.is_permanent) for f in outcome.failures.values()} == {("StorageError", 3, False)}
    assert outcome.computed
    assert outcome.unfinished == 0
    failures = Store.open(store).read_failures()
    assert failures.keys() == outcome.failures.keys()
    assert not opened(file, store).run().failures
    assert contents(store) == undisturbed
    assert not Store.open(store).read_failures()


@pytest.fixture
def finished(file: Path, store: Path) -> Path:
    """A store with the finished study."""
    assert not opened(file, store).run().failures
    return store


def overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"damaged")


def record(store: Path, identity: str) -> Path:
    return store / "records" / identity[:2] / f"{identity}.json"


def test_damage_between_two_commands(
    tmp_path: Path, file: Path, finished: Path, undisturbed: dict[str, object], called: Called
) -> None:
    study = opened(file, finished)
    curve, posterior = study.plan.curves[-1], study.plan.posteriors[0].stage
    # The record of a result that no other stage reads.
    overwrite(record(finished, curve.stage))
    assert sum(opened(file, finished).forecast().needed.values()) == 1
    assert opened(file, finished).run().computed == (curve.stage,)
    assert contents(finished) == undisturbed
    # A file that no stage reads any more: only a verification finds it.
    blob = next(iter(Store.open(finished).read(posterior).files.values())).sha256
    overwrite(finished / "blobs" / blob[:2] / blob)
    assert opened(file, finished).run().computed == ()
    code, printed, _ = called("store", "verify", str(finished), "--remove", cwd=tmp_path)
    assert (code, printed.count("DAMAGED")) == (1, 1)
    assert opened(file, finished).run().computed == (posterior,)
    assert contents(finished) == undisturbed
    # A file that a stage reads.
    overwrite(finished / "blobs" / blob[:2] / blob)
    scores = next(scores.stage for scores in study.plan.scores if scores.member == study.plan.posteriors[0].member)
    Store.open(finished).remove(scores)
    worker._runner.cache_clear()
    assert set(opened(file, finished).run().computed) == {posterior, scores}
    assert contents(finished) == undisturbed


def test_removed_inputs(file: Path, finished: Path, undisturbed: dict[str, object]) -> None:
    """The garbage collection has kept two curves; one of them is damaged, so its inputs are needed again."""
    store = Store.open(finished)
    kept = [curve.stage for curve in opened(file, finished).plan.curves[:2]]
    for identity in store.ids() - set(kept):
        store.remove(identity)
    overwrite(record(finished, kept[0]))
    outcome = opened(file, finished).run()
    assert not outcome.failures
    assert kept[0] in outcome.computed
    assert kept[1] not in outcome.computed
    assert contents(finished) == undisturbed


def test_a_clock_that_jumps(
    file: Path, store: Path, undisturbed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: chooser.uniform(0, 4e9))  # ruff: ignore[shared-clock-mock] - the subject of the test
    monkeypatch.setattr(time, "time_ns", lambda: chooser.randrange(4 * 10**18))  # ruff: ignore[shared-clock-mock] - as above
    outcome = opened(file, store, timeout=30.0).run()
    monkeypatch.undo()
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    assert contents(store) == undisturbed
    assert not remains(store)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_workers_killed_at_random_moments(file: Path, undisturbed: dict[str, object]) -> None:
    kill_workers(file, WORKERS, lambda: workers_of(os.getpid()), undisturbed, kills=20, seed=0)
    assert not workers_of(os.getpid())


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_ends_at_random_moments(
    file: Path, undisturbed: dict[str, object], number: signal.Signals
) -> None:
    """Twenty times, with the same store: from before the first stage to after the last one."""
    stop_drivers(file, undisturbed, "--workers", "2", stops=20, seed=number, number=number)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_many_commands_at_the_same_time(file: Path, store: Path, undisturbed: dict[str, object]) -> None:
    with (
        command(file, store, "--workers", "2") as first,
        command(file, store, "--workers", "1") as second,
        command(file, store) as third,
        command(file, store, "--workers", "2") as fourth,
    ):
        wait_until(lambda: count(store) >= 3)
        fourth.kill()
        for process in (first, second, third):
            _, errors = process.communicate(timeout=3 * SECONDS)
            assert process.returncode == 0, errors.decode()
    assert contents(store) == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 100 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    result = subprocess.run(mounted, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"file systems cannot be mounted here: {result.stderr.strip()}")
    return folder


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_disk_that_is_really_full(file: Path, small_disk: Path, undisturbed: dict[str, object]) -> None:
    store = small_disk / "store"
    try:
        with command(file, store, "--workers", "2") as process:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode in {1, 3}, errors.decode()
            assert b"No space left on device" in errors
        assert 0 < count(store) < TOTAL
        subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
        with command(file, store, "--workers", "2") as process:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors.decode()
        assert contents(store) == undisturbed
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
