"""One worker process, as seen by the process that starts it."""

from __future__ import annotations

import json
import os
import pickle  # ruff: ignore[suspicious-pickle-import] - over pipes between our own processes
import signal
import subprocess  # ruff: ignore[suspicious-subprocess-import] - it runs this interpreter
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rebasin_core.errors import WorkerLostError
from rebasin_core.executors import frames

if TYPE_CHECKING:
    from rebasin_core.executors.resources import Share

# Standard input and output of a worker carry tasks and results. They are replaced before anything is imported.
# Otherwise text that an import or a task prints would mix with results; it is written to standard error.
_PROGRAM = """
import os, sys, json
tasks, results = os.dup(0), os.dup(1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
sys.path[:] = json.loads(sys.argv[1])
from rebasin_core.executors.worker import serve
serve(tasks, results, threads=int(sys.argv[2]), parent=int(sys.argv[3]))
"""
_EXIT_SECONDS = 5.0


@final
class WorkerProcess:
    """A Python process that runs one task at a time.

    It is a new interpreter, not a fork or `multiprocessing` process: then threads and devices are set before PyTorch is
    loaded, and the script of the user is not imported again. It leads its own process group. Therefore Ctrl-C in the
    terminal does not reach it, and processes that it starts can be killed with it.

    Args:
        share: The part of the machine that it uses.

    Raises:
        WorkerLostError: If the process cannot be started.
    """

    def __init__(self, share: Share) -> None:
        self.was_killed = False
        self._is_over = False
        path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
        command = [sys.executable, "-c", _PROGRAM, path, str(share.threads), str(os.getpid())]
        try:
            self._process = subprocess.Popen(  # ruff: ignore[subprocess-without-shell-equals-true] - a fixed program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **share.environment()},
                start_new_session=True,
            )
        except OSError as error:
            message = f"cannot start a worker process: {error}"
            raise WorkerLostError(message) from error

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def run(self, call: bytes) -> Any:  # ruff: ignore[any-type] - of any task
        """Run a task, and wait for it.

        Args:
            call: The pickled function and arguments.

        Returns:
            The result of the task.

        Raises:
            WorkerLostError: If the process exits before the task is finished.
            Exception: The exception of the task.
        """
        reply = None
        with suppress(BrokenPipeError):
            frames.send(_fileno(self._process.stdin), call)
            reply = frames.receive(_fileno(self._process.stdout), self.is_alive)
        if reply is None:
            raise self._lost()
        is_result, value = pickle.loads(reply)  # ruff: ignore[suspicious-pickle-usage] - from our own process
        if not is_result:
            raise value
        return value

    def kill(self) -> None:
        """Kill the process and those that it started, without waiting for them."""
        self.was_killed = True
        if self._is_over:
            return
        # The group exists as long as one of its processes; that of a dead worker without children is gone.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Let the process exit, kill it and its children after a few seconds, and wait for its exit."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self.kill()
        self._process.wait()
        self._is_over = True  # its process id may now belong to another process

    def _lost(self) -> WorkerLostError:
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerLostError("a worker process closed its connection")
        if code >= 0:
            return WorkerLostError(f"a worker process ended with exit code {code} before its task was finished")
        name = signal.Signals(-code).name
        hint = "; the system kills processes if memory is insufficient" if -code == signal.SIGKILL else ""
        return WorkerLostError(f"a worker process was killed by {name} before its task was finished{hint}")


def _fileno(stream: Any) -> int:  # ruff: ignore[any-type] - a stream of the process, which has both
    return int(stream.fileno())
