"""The laws of executors."""

from __future__ import annotations

import json
import os
import subprocess  # ruff: ignore[suspicious-subprocess-import] - it runs this interpreter
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from rebasin_core.errors import LawViolationError, WorkerLostError
from rebasin_core.testing.executor_tasks import beat, fail, kill_worker, product
from rebasin_core.testing.law import expect, law

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent import futures
    from pathlib import Path

    from rebasin_core.executors.base import Executor

# Workers of a cluster start slowly. A law that holds does not wait for these limits.
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_CALL_SECONDS = 1.0
_BEAT_SECONDS = 0.05
_LONG = 600.0

_DRIVER = """
import importlib, json, sys, time
module, name, options, file = json.loads(sys.argv[1])
executor = getattr(importlib.import_module(module), name)(**options)
from rebasin_core.testing.executor_tasks import beat
executor.open().submit(beat, file, 600.0)
time.sleep(600)
"""


@law("executor")
def results(config: object, folder: Path) -> None:
    """The future of every task returns its result, with more tasks than slots and for executors opened again."""
    del folder
    executor = cast("Executor", config)
    expect(executor.slots >= 1, f"expected at least one slot, got {executor.slots}")
    for count in (executor.slots + 1, 1):
        with _opened(executor) as pool:
            pending = [pool.submit(product, number, 7) for number in range(count)]
            got = [future.result(_START_SECONDS) for future in pending]
        expected = [str(7 * number) for number in range(count)]
        expect(got == expected, f"expected the results {expected}, got {got}")


@law("executor")
def exceptions(config: object, folder: Path) -> None:
    """An exception of a task is raised with its type and message, and later tasks run."""
    del folder
    with _opened(cast("Executor", config)) as pool:
        error = pool.submit(fail, "expected seven").exception(_START_SECONDS)
        expect(isinstance(error, ValueError), f"expected a ValueError, got {error!r}")
        expect("expected seven" in str(error), f"the message of the exception is lost: {error}")
        expect(pool.submit(product, 2, 3).result(_START_SECONDS) == "6", "a later task has another result")


@law("executor")
def lost_workers(config: object, folder: Path) -> None:
    """A task whose process is killed raises a WorkerLostError, and all other tasks run."""
    del folder
    executor = cast("Executor", config)
    with _opened(executor) as pool:
        lost = pool.submit(kill_worker)
        others = [pool.submit(product, number, 2) for number in range(executor.slots + 1)]
        error = lost.exception(_START_SECONDS)
        expect(isinstance(error, WorkerLostError), f"expected a WorkerLostError, got {error!r}")
        got = [future.result(_START_SECONDS) for future in others]
        expect(got == [str(2 * number) for number in range(len(others))], f"other tasks have the results {got}")


@law("executor")
def cancellation(config: object, folder: Path) -> None:
    """Cancelling does not block; if it succeeds, the task stops within seconds, and other tasks run."""
    with _opened(cast("Executor", config)) as pool:
        file = folder / "cancelled"
        future = pool.submit(beat, str(file), _LONG)
        _await_beat(file)
        start = time.monotonic()
        is_cancelled = future.cancel()
        expect(time.monotonic() - start < _CALL_SECONDS, "`cancel` blocks")
        if is_cancelled:
            expect(future.cancelled(), "`cancel` returned True, but the future is not cancelled")
            _await_silence(file, "a cancelled task")
        else:
            content = file.read_bytes()
            _await_change(file, content, "a task that cannot be cancelled was disturbed")
        expect(is_cancelled or future.running(), "`cancel` returned False for a task that does not run")
        if is_cancelled:
            expect(pool.submit(product, 2, 3).result(_START_SECONDS) == "6", "a later task has another result")


@law("executor")
def submission_after_shutdown(config: object, folder: Path) -> None:
    """No task is accepted after shutdown."""
    del folder
    with _opened(cast("Executor", config)) as pool:
        pool.shutdown()
        try:
            pool.submit(product, 2, 3)
        except RuntimeError:
            return
    message = "a task was accepted after shutdown"
    raise LawViolationError(message)


@law("executor")
def running_tasks_at_shutdown(config: object, folder: Path) -> None:
    """``shutdown(cancel_futures=True)`` stops running tasks within seconds, and cancels waiting tasks."""
    executor = cast("Executor", config)
    file = folder / "running"
    with _opened(executor) as pool:
        running = pool.submit(beat, str(file), _LONG)
        waiting = [pool.submit(beat, str(folder / f"waiting{number}"), _LONG) for number in range(executor.slots + 1)]
        _await_beat(file)
    _await_silence(file, "a task")
    expect(running.done(), "a running task is not done after shutdown")
    expect(all(future.done() for future in waiting), "a waiting task is not done after shutdown")


@law("executor")
def no_orphans(config: object, folder: Path) -> None:
    """Workers exit if the process that opened the executor is killed."""
    executor = cast("Executor", config)
    file = folder / "beat"
    kind = type(executor)
    options = json.loads(executor.canonical_json())
    given = json.dumps([kind.__module__, kind.__qualname__, options, str(file)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    driver = subprocess.Popen(  # ruff: ignore[subprocess-without-shell-equals-true] - a fixed program
        [sys.executable, "-c", _DRIVER, given], env=environment, start_new_session=True
    )
    try:
        _await_beat(file)
    finally:
        driver.kill()
        driver.wait()
    _await_silence(file, "the process that opened the executor was killed, but its task")


@contextmanager
def _opened(executor: Executor) -> Generator[futures.Executor]:
    """Open an executor inside a block, and finally cancel its tasks."""
    pool = executor.open()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _await_beat(file: Path) -> None:
    """Wait until a task has started and changes its file."""
    deadline = time.monotonic() + _START_SECONDS
    while not file.exists():
        expect(time.monotonic() < deadline, f"a task did not start within {_START_SECONDS:.0f} seconds")
        time.sleep(_BEAT_SECONDS)


def _await_change(file: Path, content: bytes, message: str) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while file.read_bytes() == content:
        expect(time.monotonic() < deadline, message)
        time.sleep(_BEAT_SECONDS)


def _await_silence(file: Path, description: str) -> None:
    """Wait until a file remains the same for 20 beats."""
    deadline = time.monotonic() + _STOP_SECONDS
    before = None
    while before != (content := file.read_bytes()):
        expect(time.monotonic() < deadline, f"{description} still runs after {_STOP_SECONDS:.0f} seconds")
        before = content
        time.sleep(20 * _BEAT_SECONDS)
