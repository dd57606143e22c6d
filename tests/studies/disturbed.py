"""Tasks that are killed, stopped or held at chosen numbers, and a command that computes a study with such tasks.

The tasks of a study, in all its processes, number themselves with files in a folder, and follow the orders for their
numbers, which are files in the same folder. The speed of the machine does not matter.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import rebasin_core.studies.study as study_module
from rebasin_core import cli
from rebasin_core.studies.engine.scheduler import Settings
from rebasin_core.studies.engine.worker import run_task
from tests.studies.tiny import wait_until

if TYPE_CHECKING:
    import pytest  # not in workers

FOLDER = "DISTURBANCES"


def _numbered(folder: Path) -> int:
    """Write the process of this task to the next file, and return its number; no two tasks have the same one."""
    for number in count(1):
        try:
            with (folder / f"{number}.process").open("x", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            continue
        return number
    raise AssertionError


def disturbed_task(text: str) -> str:
    """Follow the order for the number of a task, and compute it.

    The worker of a ``killed`` task dies before it computes anything, and the system stops the worker of a ``hanging``
    task. A ``held`` task waits for a file.
    """
    folder = Path(os.environ[FOLDER])
    number = _numbered(folder)

    def is_ordered(order: str) -> bool:
        return (folder / f"{number}.{order}").exists()

    if is_ordered("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if is_ordered("hanging"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if is_ordered("held"):
        (folder / "held").touch()
        wait_until((folder / "released").exists)
    return run_task(text)


def disturb(folder: Path, orders: dict[int, str]) -> None:
    """Give orders to tasks, by their numbers."""
    for number, order in orders.items():
        (folder / f"{number}.{order}").touch()


def process_of(folder: Path, number: int) -> int | None:
    """Return the process of a task; None if it has not started."""
    file = folder / f"{number}.process"
    return int(file.read_text(encoding="utf-8") or 0) or None if file.exists() else None


def replace_task(patch: pytest.MonkeyPatch) -> None:
    """Let the studies of this process compute their tasks with `disturbed_task`."""
    patch.setattr(study_module, "Settings", partial(Settings, run=disturbed_task))


def main() -> None:
    """Run `rebasin` with disturbed tasks."""
    study_module.Settings = partial(Settings, run=disturbed_task)  # type: ignore[assignment, attr-defined] # as in tests
    cli.main()
