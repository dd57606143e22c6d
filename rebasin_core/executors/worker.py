"""The program of a worker process."""

from __future__ import annotations

import os
import pickle  # ruff: ignore[suspicious-pickle-import] - over pipes between our own processes
import queue
import signal
import threading
import traceback
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import RebasinError
from rebasin_core.executors import frames

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(tasks: int, results: int, *, threads: int, parent: int) -> None:
    """Run tasks until the parent process closes the connection or exits.

    Args:
        tasks: File descriptor from which tasks are read.
        results: File descriptor to which results are written.
        threads: Number of threads of PyTorch.
        parent: Process id of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    torch.set_num_threads(threads)
    inbox = _Inbox(tasks, lambda: os.getppid() == parent)
    while (call := inbox.next()) is not None:
        reply = _reply(call)
        inbox.num_finished += 1
        try:
            frames.send(results, reply)
        except BrokenPipeError:
            return


@final
class _Inbox:
    """Receives tasks in a thread, which also notices the exit of the parent while a task runs.

    Args:
        tasks: File descriptor from which tasks are read.
        has_parent: Whether the parent runs.
    """

    def __init__(self, tasks: int, has_parent: Callable[[], bool]) -> None:
        self._received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._num_received = 0
        self.num_finished = 0
        threading.Thread(target=self._receive, args=(tasks, has_parent), daemon=True).start()

    def next(self) -> bytes | None:
        """Wait for a task; return None if there will be no more."""
        return self._received.get()

    def _receive(self, tasks: int, has_parent: Callable[[], bool]) -> None:
        while (call := frames.receive(tasks, has_parent)) is not None:
            self._num_received += 1
            self._received.put(call)
        if self.num_finished == self._num_received:
            self._received.put(None)
        else:
            # With the processes that the task started: this process leads their group.
            os.killpg(os.getpid(), signal.SIGKILL)


def _reply(call: bytes) -> bytes:
    """Run a pickled call; return whether it succeeded and its result or exception, pickled."""
    try:
        function, args, kwargs = pickle.loads(call)  # ruff: ignore[suspicious-pickle-usage] - from our own process
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # ruff: ignore[blind-except] - raised in the parent
        text = "".join(traceback.format_exception(error))
        error.add_note(f"In a worker process:\n{text}")
        return pickle.dumps((False, _sendable(error, text)))


def _sendable(error: Exception, text: str) -> Exception:
    """Return an exception that can be pickled: the exception itself, or one with its message."""
    try:
        copied = pickle.loads(pickle.dumps(error))  # ruff: ignore[suspicious-pickle-usage] - pickled in this line
    except Exception:  # ruff: ignore[blind-except] - pickling runs methods of the exception
        copied = None
    if type(copied) is type(error):
        return error
    replacement = RebasinError(f"{type(error).__name__}: {error}")
    replacement.add_note(f"In a worker process:\n{text}")
    return replacement
