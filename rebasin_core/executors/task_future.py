"""Futures of tasks that can be cancelled while they run."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class TaskFuture(futures.Future[Any]):
    """Future whose running task can be cancelled, for executors that can stop a task.

    The state of the base class remains *pending* while a worker runs the task, since it forbids to cancel a *running*
    future. Waiting for a cancelled future returns when the owner of the task calls `finish`.

    Args:
        on_cancel: Called once with this future after it was cancelled; must not block.
    """

    def __init__(self, on_cancel: Callable[[TaskFuture], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel
        self.is_started = False

    @override
    def cancel(self) -> bool:
        was_cancelled = self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and not was_cancelled:
            self._on_cancel(self)
        return is_cancelled

    @override
    def running(self) -> bool:
        return self.is_started and not self.done()

    def finish(self, result: object = None, error: BaseException | None = None) -> None:
        """Set the outcome, unless the task was cancelled. Called once, by the owner of the task.

        Args:
            result: Result of the task.
            error: Exception of the task; None if it returned a result.
        """
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)
