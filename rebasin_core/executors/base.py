"""Interface of executors."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

from pydantic import NonNegativeFloat

from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from concurrent import futures


class Executor(Strategy):
    """Runs tasks in this process, in other processes, or on a cluster.

    An executor is a declaration. `open` starts it and returns a `concurrent.futures.Executor`. A *task* is an
    importable function and its arguments. Pass large data through files or a store: arguments and results are copied
    through the process that submits them.

    Laws:
        - *Results*: the future of a task returns its result. An exception of the task is raised by ``result()``, with
          its type and message.
        - *Lost workers*: if the process of a task is killed, its future raises a WorkerLostError. Tasks that are
          submitted later run, and so do all other tasks.
        - *Cancellation*: ``cancel()`` never blocks. For a running task it returns True and stops the task within
          seconds, or it returns False and does not disturb the task. Other tasks are not affected.
        - *Shutdown*: ``shutdown(cancel_futures=True)`` stops all tasks that can be stopped, and all workers.
        - *No orphans*: workers exit if the process that opened the executor exits, even if it is killed.
        - *Studies*: a study has the same artifacts as in one process with an equal number of threads.
        - *Context*: the executor is a context manager, and can be opened several times.
    """

    family: ClassVar[str] = "executor"

    task_seconds: NonNegativeFloat = 0.0
    """Target duration of a task in seconds. Short stages are combined in one task; 0 for one stage per task."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Number of tasks to keep submitted at the same time, at least 1."""

    @final
    def open(self) -> futures.Executor:
        """Start the executor.

        Returns:
            An executor that runs tasks until its ``shutdown`` is called.

        Raises:
            ConfigError: If the executor cannot run with these options on this machine.
        """
        return self._open()

    @abstractmethod
    def _open(self) -> futures.Executor:
        """Start the executor.

        Returns:
            A `concurrent.futures.Executor`.
        """
