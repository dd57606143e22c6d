"""A `concurrent.futures.Executor` on Ray."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, final

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from rebasin_core.errors import ConfigError, WorkerLostError
from rebasin_core.executors import AbstractTaskPool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rebasin_core.executors import Call, TaskFuture
    from rebasin_ray.executor import RayExecutor

_Result = TypeVar("_Result")

_POLL_SECONDS = 0.1

_LOCK = threading.Lock()
_CONNECTIONS: list[object] = []


@contextmanager
def opened_ray(executor: RayExecutor) -> Generator[None]:
    """Connect to Ray inside a block, unless this process is connected already.

    Args:
        executor: The options.

    Yields:
        Nothing.

    Raises:
        ConfigError: If there is no cluster at the address.
    """
    user = object()
    with _LOCK:
        if _CONNECTIONS or not ray.is_initialized():
            if not ray.is_initialized():
                _connect(executor)
            _CONNECTIONS.append(user)
    try:
        yield
    finally:
        with _LOCK:
            if user in _CONNECTIONS:
                _CONNECTIONS.remove(user)
                if not _CONNECTIONS:
                    ray.shutdown()


def fitting_tasks(executor: RayExecutor) -> int:
    """Return the number of tasks that fit the present nodes.

    Args:
        executor: The resources of a task.

    Returns:
        The number; 0 if no node has the resources of one task.
    """
    count = 0
    nodes: list[dict[str, Any]] = ray.nodes()
    for node in nodes:
        if node["Alive"]:
            found = node["Resources"]
            tasks = found.get("CPU", 0.0) // executor.num_cpus
            if executor.num_gpus:
                tasks = min(tasks, found.get("GPU", 0.0) // executor.num_gpus)
            count += int(tasks)
    return count


def _connect(executor: RayExecutor) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its authors by default
    try:
        ray.init(address=executor.address or "local", include_dashboard=None, log_to_driver=False)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        message = f"cannot connect to Ray at {executor.address!r}: {error}; start a cluster with `ray start --head`"
        raise ConfigError(message) from error


def _call(threads: int, fn: Callable[..., _Result], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Result:
    """Run a task in a process of Ray."""
    torch.set_num_threads(threads)
    return fn(*args, **kwargs)


@final
class RayPool(AbstractTaskPool):
    """Runs tasks on Ray; one thread follows them.

    Args:
        executor: The options.

    Raises:
        ConfigError: If there is no cluster at the address, or a local Ray lacks the resources of a task.
    """

    def __init__(self, executor: RayExecutor) -> None:
        super().__init__()
        self._torch_threads = max(1, int(executor.num_cpus))
        self._connection = ExitStack()
        self._connection.enter_context(opened_ray(executor))
        if executor.address is None and fitting_tasks(executor) == 0:
            self._connection.close()
            message = (
                f"no node of the local Ray has {executor.num_cpus:g} CPUs and {executor.num_gpus:g} GPUs for a task; "
                "set `num_cpus` and `num_gpus`"
            )
            raise ConfigError(message)
        self._remote: Any = ray.remote(_call).options(
            num_cpus=executor.num_cpus, num_gpus=executor.num_gpus, max_retries=executor.max_retries
        )
        self._running: dict[Any, TaskFuture] = {}  # by reference of the result
        self._cancelled: deque[TaskFuture] = deque()
        self._start([self._follow])

    @override
    def _add(self, future: TaskFuture, call: Call) -> None:
        self._running[self._remote.remote(self._torch_threads, *call)] = future
        future.is_started = True

    @override
    def _unfinished(self) -> list[TaskFuture]:
        return list(self._running.values())

    @override
    def _stop(self, future: TaskFuture) -> None:
        with self._changed:
            self._cancelled.append(future)
            self._changed.notify()

    def _follow(self) -> None:
        """Finish futures until shutdown, then disconnect."""
        with self._connection:
            while (running := self._next()) is not None:
                done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS) if running else ([], [])
                for reference in done:
                    result, error = _outcome(reference)
                    self._finish(reference, result, error)

    def _next(self) -> dict[Any, TaskFuture] | None:
        """Wait for tasks, kill those that were cancelled, and return the others; None after shutdown."""
        with self._changed:
            while not self._running:
                self._cancelled.clear()
                if self._is_shut_down:
                    return None
                self._changed.wait()
            cancelled = set(self._cancelled)
            self._cancelled.clear()
            running = dict(self._running)
        for reference in [reference for reference, future in running.items() if future in cancelled]:
            ray.cancel(reference, force=True)
            self._finish(reference)
            del running[reference]
        return running

    def _finish(self, reference: Any, result: object = None, error: BaseException | None = None) -> None:  # ruff: ignore[any-type] - Ray has no type of references
        with self._changed:
            future = self._running.pop(reference)
        future.finish(result, error)


def _outcome(reference: Any) -> tuple[object, BaseException | None]:  # ruff: ignore[any-type] - Ray has no type of references
    """Return the result and the exception of a task that is done; one of them is None."""
    try:
        return ray.get(reference), None
    except RayTaskError as error:  # the task raised an exception
        cause = getattr(error, "cause", None)
        if not isinstance(cause, Exception):
            return None, error
        cause.add_note(f"In a process of Ray:\n{error}")
        return None, cause
    except RayError as error:
        return None, WorkerLostError(f"a process or node of Ray failed before its task was finished: {error}")
