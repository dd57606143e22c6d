"""Workers and drivers of real studies that are killed at random moments, for any executor.

The moments are seeded. They are numbers of stored stages and seconds, and cover a study at any speed of the
machine.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import torch

from rebasin_core.executors import Executor
from rebasin_core.studies.engine.observer import Outcome
from rebasin_core.studies.store import Store
from tests.studies.tiny import (
    SECONDS,
    TOTAL,
    command,
    contents,
    count,
    descendants,
    is_running,
    opened,
    remains,
    wait_until,
    write_study,
)

_SITE = b"Failed to import the site module"  # an interruption before Python runs any program: its exit code is 1
PAUSE = 4.0
"""Longest time between two kills in seconds."""


def undisturbed_contents(folder: Path) -> dict[str, object]:
    """Compute the study in this process with one thread, and return the contents of its store."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = opened(write_study(folder), folder / "store").run()
    finally:
        torch.set_num_threads(before)
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    return contents(folder / "store")


def kill_workers(
    file: Path,
    executor: Executor,
    workers: Callable[[], list[int]],
    expected: Mapping[str, object],
    *,
    kills: int,
    seed: int,
) -> None:
    """Compute studies in this process, and kill their workers, also while they start.

    Args:
        file: The study.
        executor: Starts the workers.
        workers: Returns the processes of the workers.
        expected: The contents of the store of an undisturbed study.
        kills: Smallest number of workers that are killed.
        seed: Seed of the moments and the workers.
    """
    chooser = random.Random(seed)
    number = 0
    while kills > 0:
        number += 1
        store = file.parent / f"store{number}"
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(opened(file, store, retries=100).run, executor=executor)
            kills -= _kill(workers, running, chooser, kills)
            outcome = running.result()
        assert (outcome.failures, outcome.unfinished) == ({}, 0)
        assert contents(store) == expected
        assert not remains(store)


def _kill(workers: Callable[[], list[int]], running: Future[Outcome], chooser: random.Random, most: int) -> int:
    """Kill workers until a study is finished or enough were killed; return their number."""
    kills = 0
    while kills < most and not wait([running], chooser.uniform(0.05, PAUSE)).done:
        found = workers()
        if found:
            with suppress(ProcessLookupError):
                os.kill(chooser.choice(found), signal.SIGKILL)
                kills += 1
    return kills


def stop_drivers(
    file: Path, expected: Mapping[str, object], *options: str, stops: int, seed: int, number: signal.Signals
) -> None:
    """Signal commands that compute one study with one store, and finish it with the same command.

    Between two commands, stored stages are removed: then the next one also has work.

    Args:
        file: The study.
        expected: The contents of the store of an undisturbed study.
        options: Options of the command.
        stops: Number of commands that do not finish because of the signal.
        seed: Seed of the moments.
        number: The signal.
    """
    chooser = random.Random(seed)
    store = file.parent / "store"
    targets = set(opened(file, store).plan.targets)  # others, such as the data, are computed only if one needs them
    while stops > 0:
        code, errors = _stopped_driver(file, store, options, chooser, number)
        is_stopped = code == -number or (number is signal.SIGINT and (code == 130 or _SITE in errors))
        assert code == 0 or is_stopped, (code, errors.decode())
        if code == 0:
            assert contents(store) == expected
        else:
            stops -= 1
        if code == 130:
            assert not remains(store)
        stored = sorted(Store.open(store).ids() & targets)
        for identity in chooser.sample(stored, max(0, len(stored) - TOTAL // 2)):
            Store.open(store).remove(identity)
    with command(file, store, *options) as process:
        _, errors = process.communicate(timeout=3 * SECONDS)
        assert process.returncode == 0, errors.decode()
    assert contents(store) == expected


def _stopped_driver(
    file: Path, store: Path, options: tuple[str, ...], chooser: random.Random, number: signal.Signals
) -> tuple[int, bytes]:
    """Signal a command at a random moment, and return its exit code and errors; none of its processes survives."""
    total = chooser.randint(count(store), TOTAL)
    with command(file, store, *options) as process:
        wait_until(lambda: count(store) >= total or process.poll() is not None, 3 * SECONDS)
        with suppress(subprocess.TimeoutExpired):
            process.wait(chooser.uniform(0, 1))
        workers = descendants(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
        wait_until(lambda: not any(map(is_running, workers)))
        return process.returncode, errors
