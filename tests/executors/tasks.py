"""Tasks of the tests; worker processes import them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import torch


def process_id() -> int:
    return os.getpid()


def threads() -> tuple[int, str, str]:
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES", "none")


def text(size: int) -> str:
    return "x" * size


def length(content: str) -> int:
    return len(content)


def talk() -> str:
    print("printed by a task")  # ruff: ignore[print] - must not mix with results
    os.write(1, b"written by a library\n")
    return "answer"


def leave(code: int) -> NoReturn:
    sys.exit(code)


def interrupt() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return "not interrupted"


def wait_for(folder: str, name: str, others: list[str]) -> list[str]:
    """Announce this task, and return when all others have been announced."""
    (Path(folder) / name).touch()
    deadline = time.monotonic() + 30
    while not all((Path(folder) / other).exists() for other in others):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return others


def start_child_and_sleep(file: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(str(child.pid), encoding="utf-8")
    time.sleep(600)


def fork_and_die(file: str) -> None:
    """Leave a process behind that holds the pipes of this worker."""
    if (child := os.fork()) == 0:
        time.sleep(600)
    Path(file).write_text(str(child), encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


class UnpicklableError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def raise_unpicklable() -> None:
    raise UnpicklableError(1, 2)


def return_unpicklable() -> object:
    return lambda: None
