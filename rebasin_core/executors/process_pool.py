"""A `concurrent.futures.Executor` whose running tasks can be cancelled, and whose workers are independent."""

from __future__ import annotations

import pickle  # ruff: ignore[suspicious-pickle-import] - over pipes between our own processes
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.errors import WorkerLostError
from rebasin_core.executors.task_pool import AbstractTaskPool
from rebasin_core.executors.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.executors.resources import Share
    from rebasin_core.executors.task_future import TaskFuture
    from rebasin_core.executors.task_pool import Call


@final
@dataclass(frozen=True, slots=True)
class _Task:
    future: TaskFuture
    call: bytes


@final
class ProcessPool(AbstractTaskPool):
    """Runs tasks in worker processes, each served by its own thread.

    A task has one owner, which finishes its future: the queue, then the thread that removes the task from it.

    Args:
        shares: The part of the machine for each worker.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        super().__init__()
        self._queue: deque[_Task] = deque()
        self._running: dict[TaskFuture, WorkerProcess | None] = {}
        # Threads that have a worker and wait for a task.
        self._num_idle = 0
        self._start([partial(self._serve, share) for share in shares])

    @override
    def _add(self, future: TaskFuture, call: Call) -> None:
        self._queue.append(_Task(future, pickle.dumps(call)))

    @override
    def _unfinished(self) -> list[TaskFuture]:
        return [*(task.future for task in self._queue), *self._running]

    @override
    def _stop(self, future: TaskFuture) -> None:
        """Remove a cancelled task from the queue, or kill the worker that runs it."""
        with self._changed:
            queued = [task for task in self._queue if task.future is future]
            for task in queued:
                self._queue.remove(task)
                self._changed.notify_all()
            # Under the lock: afterwards, this worker may have another task.
            worker = self._running.get(future)
            if worker is not None:
                worker.kill()
        if queued:
            future.finish()

    def _serve(self, share: Share) -> None:
        """Run tasks until shutdown, in one worker process after another."""
        worker: WorkerProcess | None = None
        while (task := self._next(has_worker=worker is not None)) is not None:
            result, error = None, None
            try:
                worker = _restarted(worker, share)
                if self._assign(task.future, worker):
                    result = worker.run(task.call)
            except Exception as raised:  # ruff: ignore[blind-except] - raised by `result`
                error = raised
            with self._changed:
                del self._running[task.future]
            if worker is not None and (isinstance(error, WorkerLostError) or worker.was_killed):
                worker.stop()
                worker = None
            task.future.finish(result, error)
        if worker is not None:
            worker.stop()

    def _next(self, *, has_worker: bool) -> _Task | None:
        """Wait for a task, and remove it from the queue; return None if there are none after shutdown."""
        with self._changed:
            self._num_idle += has_worker
            # A thread without a worker leaves tasks to idle workers: a process needs seconds to start.
            while len(self._queue) <= (0 if has_worker else self._num_idle):
                if self._is_shut_down and not self._queue:
                    return None
                self._changed.wait()
            self._num_idle -= has_worker
            task = self._queue.popleft()
            task.future.is_started = True
            self._running[task.future] = None
            self._changed.notify_all()  # after shutdown, threads wait until the queue is empty
            return task

    def _assign(self, future: TaskFuture, worker: WorkerProcess) -> bool:
        """Record the worker of a task; return False if the task was cancelled before."""
        with self._changed:
            self._running[future] = worker
            return not future.cancelled()


def _restarted(worker: WorkerProcess | None, share: Share) -> WorkerProcess:
    """Return a worker if it is alive, else a new one."""
    if worker is None:
        return WorkerProcess(share)
    if worker.is_alive():
        return worker
    worker.stop()
    return WorkerProcess(share)
