"""The function that a job runs."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import torch
from submitit.core.utils import UncompletedJobError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_task(
    call: tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]],
    threads: int,
    files: tuple[Path, Path],
    patience: float,
) -> tuple[bool, object]:
    """Run a task in a job.

    Args:
        call: The function and its arguments.
        threads: Number of threads.
        files: A file that the submitting process changes while it runs, and one that it creates to stop this job.
        patience: Seconds without a change after which the job stops.

    Returns:
        Whether the task succeeded, and its result or exception.

    Raises:
        UncompletedJobError: If Slurm stops the job, because it was preempted or its time is over.
    """
    threading.Thread(target=_watch, args=(*files, patience), daemon=True).start()
    torch.set_num_threads(threads)
    function, args, kwargs = call
    try:
        return True, function(*args, **kwargs)
    except UncompletedJobError:  # raised by the signal handler of submitit
        raise
    except Exception as error:  # ruff: ignore[blind-except] - raised by `result` in the submitting process
        error.add_note(f"In a job:\n{''.join(traceback.format_exception(error))}")
        return False, error


def _watch(heartbeat: Path, stop: Path, patience: float) -> None:
    """Kill this process if one file no longer changes, or another one exists.

    Signals are not sufficient: a command that a shell runs in the background ignores the signal with which submitit
    cancels local jobs, and its jobs inherit that.
    """
    content = b""
    changed = time.monotonic()
    while time.monotonic() - changed < patience and not stop.exists():
        time.sleep(patience / 10)
        try:
            found = heartbeat.read_bytes()
        except OSError:  # removed, or the file system is not available
            continue
        if found != content:
            content = found
            changed = time.monotonic()
    os.kill(os.getpid(), signal.SIGKILL)
