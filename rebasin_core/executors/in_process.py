"""Runs tasks in the calling process."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent import futures
from typing import TYPE_CHECKING, ClassVar, Literal, ParamSpec, TypeVar, final

from typing_extensions import override

from rebasin_core.executors.base import Executor

if TYPE_CHECKING:
    from collections.abc import Callable

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@final
class InProcessExecutor(Executor):
    """Runs each task in the calling process and thread, while it is submitted.

    A task that exits also exits this process. Ctrl-C interrupts the running task, and ``submit`` raises
    KeyboardInterrupt.

    Examples:
        >>> with InProcessExecutor().open() as executor:
        ...     executor.submit(sum, [1, 2]).result()
        3
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {
        "lost_workers": "tasks run in the calling process",
        "cancellation": "a task is finished when it has been submitted",
        "running_tasks_at_shutdown": "a task is finished when it has been submitted",
        "no_orphans": "tasks run in the calling process",
    }

    name: Literal["in_process"] = "in_process"

    @property
    @override
    def slots(self) -> int:
        return 1

    @override
    def _open(self) -> futures.Executor:
        return _ImmediateExecutor()


@final
class _ImmediateExecutor(futures.Executor):
    """Runs each task while it is submitted."""

    def __init__(self) -> None:
        self._is_shut_down = False

    @override
    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> futures.Future[_Result]:
        if self._is_shut_down:
            message = "cannot submit a task after shutdown"
            raise RuntimeError(message)
        future: futures.Future[_Result] = futures.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # ruff: ignore[blind-except] - raised by `result`
            future.set_exception(error)
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
