"""Processes: independence of workers, cancellation, threads and devices."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

import rebasin_core as rc
from rebasin_core.errors import RebasinError, WorkerLostError
from rebasin_core.executors import ProcessesExecutor, resources
from rebasin_core.testing import LAWS, Law
from rebasin_core.testing.executor_tasks import beat
from tests.executors import tasks


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[futures.Executor]:
    opened = ProcessesExecutor(workers=1, threads=1).open()
    yield opened
    opened.shutdown(cancel_futures=True)


@pytest.fixture
def pool(shared_pool: futures.Executor) -> futures.Executor:
    """A pool of one worker; tests that lose the worker find a new one afterwards."""
    assert shared_pool.submit(tasks.length, "abc").result(60) == 3  # the pool is idle
    return shared_pool


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def await_exit(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, "the process still runs"
        time.sleep(0.05)


def await_content(file: Path) -> str:
    deadline = time.monotonic() + 30
    while not file.exists() or not file.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return file.read_text(encoding="utf-8")


def test_an_idle_worker_runs_all_tasks_and_the_others_exit_at_shutdown() -> None:
    with ProcessesExecutor(workers=2, threads=3).open() as opened:
        first = opened.submit(tasks.process_id).result()
        assert {opened.submit(tasks.process_id).result() for _ in range(9)} == {first} != {os.getpid()}
        assert opened.submit(tasks.threads).result()[:2] == (3, "3")
        last = [opened.submit(tasks.process_id) for _ in range(2)]
    assert first in {future.result(0) for future in last}
    await_exit(first)


def test_shutdown_with_a_cancelled_task_that_an_idle_worker_would_run() -> None:
    opened = ProcessesExecutor(workers=2, threads=1).open()
    opened.submit(tasks.process_id).result()
    cancelled = opened.submit(tasks.length, "abc")
    opened.shutdown(cancel_futures=True)
    assert cancelled.done()


def test_output_of_tasks_does_not_mix_with_results(pool: futures.Executor) -> None:
    assert [pool.submit(tasks.talk).result() for _ in range(2)] == ["answer", "answer"]


def test_arguments_and_results_exceed_the_buffer_of_a_pipe(pool: futures.Executor) -> None:
    assert pool.submit(tasks.length, "x" * 3_000_000).result() == 3_000_000
    assert pool.submit(tasks.text, 3_000_000).result() == "x" * 3_000_000


def test_exit_of_a_task_loses_its_worker_only(pool: futures.Executor) -> None:
    lost, later = pool.submit(tasks.leave, 7), pool.submit(tasks.length, "abc")
    with pytest.raises(WorkerLostError, match="ended with exit code 7 before its task was finished"):
        lost.result()
    assert later.result() == 3


def test_killed_worker_is_named_with_its_signal(pool: futures.Executor, tmp_path: Path) -> None:
    lost = pool.submit(beat, str(tmp_path / "beat"), 600.0)
    os.kill(int(await_content(tmp_path / "beat").split()[0]), signal.SIGKILL)
    with pytest.raises(WorkerLostError, match=r"killed by SIGKILL .* if memory is insufficient"):
        lost.result(10)


def test_idle_worker_that_was_killed_is_restarted(pool: futures.Executor) -> None:
    first = pool.submit(tasks.process_id).result()
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # for all its threads; the pool reads the exit code
    assert pool.submit(tasks.process_id).result() != first


def test_killed_worker_is_noticed_although_its_child_holds_the_pipe(pool: futures.Executor, tmp_path: Path) -> None:
    lost = pool.submit(tasks.fork_and_die, str(tmp_path / "child"))
    with pytest.raises(WorkerLostError):
        lost.result(60)
    await_exit(int((tmp_path / "child").read_text()))


def test_cancelling_a_running_task_also_kills_its_children(pool: futures.Executor, tmp_path: Path) -> None:
    future = pool.submit(tasks.start_child_and_sleep, str(tmp_path / "child"))
    child = int(await_content(tmp_path / "child"))
    assert future.running()
    start = time.monotonic()
    assert future.cancel()
    assert time.monotonic() - start < 0.5
    assert futures.wait([future], 10).done == {future}
    assert future.cancelled()
    assert not future.running()
    await_exit(child)
    assert pool.submit(tasks.length, "abc").result() == 3


def test_cancelling_a_waiting_task_leaves_the_running_one(pool: futures.Executor, tmp_path: Path) -> None:
    running = pool.submit(tasks.wait_for, str(tmp_path), "a", ["b"])
    waiting = pool.submit(tasks.length, "abc")
    assert waiting.cancel()
    assert futures.wait([waiting], 1).done == {waiting}
    assert waiting.cancel()
    (tmp_path / "b").touch()
    assert running.result(60) == ["b"]
    assert not running.cancel()


def test_cancelling_while_workers_start_does_not_disturb_other_tasks() -> None:
    with ProcessesExecutor(workers=1, threads=1).open() as opened:
        pending = [opened.submit(tasks.length, "x" * number) for number in range(6)]
        pending[0].cancel()
        pending[4].cancel()
        assert [pending[number].result(60) for number in (1, 2, 3, 5)] == [1, 2, 3, 5]


def test_callbacks_may_submit_and_shut_down() -> None:
    pool = ProcessesExecutor(workers=1, threads=1).open()
    done = threading.Event()
    second: list[futures.Future[int]] = []

    def submit_another(_: object) -> None:
        second.append(pool.submit(tasks.length, "abc"))
        second[0].add_done_callback(shut_down)

    def shut_down(_: object) -> None:
        pool.shutdown()
        done.set()

    pool.submit(tasks.length, "ab").add_done_callback(submit_another)
    assert done.wait(60)
    assert second[0].result() == 3


def test_workers_ignore_an_interrupt(pool: futures.Executor) -> None:
    assert pool.submit(tasks.interrupt).result() == "not interrupted"


def test_exceptions_have_the_traceback_of_the_worker(pool: futures.Executor) -> None:
    error = pool.submit(tasks.wait_for, "/does/not/exist", "a", []).exception()
    assert isinstance(error, FileNotFoundError)
    assert "tasks.py" in error.__notes__[0]


def test_what_cannot_be_pickled_is_an_exception_with_the_message(pool: futures.Executor) -> None:
    error = pool.submit(tasks.raise_unpicklable).exception()
    assert type(error) is RebasinError
    assert str(error) == "UnpicklableError: 1 and 2"
    assert "tasks.py" in error.__notes__[0]
    assert "pickle" in str(pool.submit(tasks.return_unpicklable).exception())
    assert pool.submit(tasks.length, "abc").result() == 3


def test_workers_run_at_the_same_time_with_devices_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    executor = ProcessesExecutor()
    assert executor.slots == 2
    with executor.open() as opened:
        held = [opened.submit(tasks.wait_for, str(tmp_path), name, ["a", "b"]) for name in ("a", "b")]
        assert [future.result(60) for future in held] == [["a", "b"]] * 2
        found = [opened.submit(tasks.threads).result() for _ in range(2)]
    assert {visible for _, _, visible in found} <= {"3", "5"}
    assert [share.gpu for share in resources.shares(5, 1)] == ["3", "5", "3", "5", "3"]


@pytest.mark.nightly
@pytest.mark.parametrize("law", LAWS["executor"], ids=lambda law: law.name)
def test_the_laws_hold_for_two_workers(law: Law, tmp_path: Path) -> None:
    """`tests/test_conformance.py` tests them with one worker."""
    law.trial(ProcessesExecutor(workers=2, threads=1), tmp_path)


def test_executor_is_chosen_by_name() -> None:
    executor = rc.default_registry().build("executor", {"name": "processes", "workers": 2})
    assert executor == ProcessesExecutor(workers=2)
    assert executor.slots == 2
    with pytest.raises(rc.errors.ConfigError, match="workers"):
        ProcessesExecutor(workers=0)
