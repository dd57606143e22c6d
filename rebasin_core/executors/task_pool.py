"""Base class of executors whose running tasks can be cancelled."""

from __future__ import annotations

import threading
from abc import abstractmethod
from concurrent import futures
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, final

from typing_extensions import override

from rebasin_core.executors.task_future import TaskFuture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
Call: TypeAlias = "tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]"
"""A function, its positional and its keyword arguments."""


class AbstractTaskPool(futures.Executor):
    """A `concurrent.futures.Executor` whose running tasks can be cancelled, served by threads of its own.

    A subclass accepts tasks in `_add`, calls `_start` with the loops of its threads, and finishes each future once.
    Everything that its threads share is accessed while ``_changed`` is held.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # protects what the threads share
        self._is_shut_down = False
        self._threads: list[threading.Thread] = []

    @final
    @override
    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> futures.Future[_Result]:
        future = TaskFuture(self._stop)
        with self._changed:
            if self._is_shut_down:
                message = "cannot submit a task after shutdown"
                raise RuntimeError(message)
            self._add(future, (fn, args, kwargs))
            self._changed.notify_all()
        return future

    @final
    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._is_shut_down = True
            unfinished = self._unfinished()
            self._changed.notify_all()
        if cancel_futures:
            for future in unfinished:
                future.cancel()
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():  # that of a callback of a future
                    thread.join()

    @final
    def _start(self, loops: Sequence[Callable[[], None]]) -> None:
        """Start one thread for each loop; a loop returns after shutdown."""
        # Daemons: a program that exits without `shutdown` does not wait for its tasks; the workers exit with it.
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _add(self, future: TaskFuture, call: Call) -> None:
        """Accept a task; called while ``_changed`` is held.

        Args:
            future: Future of the task.
            call: The function and its arguments.
        """

    @abstractmethod
    def _unfinished(self) -> list[TaskFuture]:
        """Return the futures of all tasks that are not finished; called while ``_changed`` is held."""

    @abstractmethod
    def _stop(self, future: TaskFuture) -> None:
        """Stop the task of a future that was cancelled; must not block.

        Args:
            future: The future.
        """
