"""Tasks for the laws of executors: importable functions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def product(first: int, second: int) -> str:
    """Return the product of two integers as text.

    Args:
        first: One factor.
        second: The other.

    Returns:
        The decimal digits.
    """
    return str(first * second)


def fail(message: str) -> None:
    """Raise a ValueError.

    Args:
        message: Its message.

    Raises:
        ValueError: Always.
    """
    raise ValueError(message)


def kill_worker() -> None:
    """Kill the process of this task, as the system does when memory is insufficient."""
    os.kill(os.getpid(), signal.SIGKILL)


def beat(file: str, seconds: float) -> None:
    """Change a file every 50 milliseconds.

    Args:
        file: The file.
        seconds: Duration of the task.
    """
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        count += 1
        Path(file).write_text(f"{os.getpid()} {count}\n", encoding="utf-8")
        time.sleep(0.05)
