"""Runs tasks in processes of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.executors.base import Executor
from rebasin_core.executors.process_pool import ProcessPool
from rebasin_core.executors.resources import shares

if TYPE_CHECKING:
    from concurrent import futures


@final
class ProcessesExecutor(Executor):
    """Runs tasks in processes of this machine.

    Each worker is a new Python process, which starts if a task waits and no worker is idle, and runs one task at a
    time. CPUs and GPUs are divided among the workers. A worker that is killed loses only its task, and is restarted for
    the next one. The function of a task must be importable: functions of ``__main__`` are not.

    Workers do not receive Ctrl-C. They exit with the process that opened the executor.

    Examples:
        >>> with ProcessesExecutor(workers=2, threads=1).open() as executor:
        ...     executor.submit(sum, [1, 2]).result()
        3
    """

    name: Literal["processes"] = "processes"

    workers: PositiveInt | None = None
    """Number of processes. None for one per GPU; without GPUs, the number of CPUs divided by `threads`."""

    threads: PositiveInt | None = None
    """Threads per process. None to divide the CPUs equally; without GPUs and `workers`, 1."""

    @property
    @override
    def slots(self) -> int:
        return len(shares(self.workers, self.threads))

    @override
    def _open(self) -> futures.Executor:
        return ProcessPool(shares(self.workers, self.threads))
