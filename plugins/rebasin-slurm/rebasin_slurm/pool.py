"""A `concurrent.futures.Executor` on submitit."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import submitit
from typing_extensions import override

from rebasin_core.errors import ConfigError, WorkerLostError
from rebasin_core.executors import AbstractTaskPool
from rebasin_slurm.job import run_task

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.executors import Call, TaskFuture
    from rebasin_slurm.executor import SlurmExecutor

_LOG_LINES = 20


@final
@dataclass(frozen=True, slots=True)
class _Pace:
    """Durations in seconds.

    Attributes:
        poll: Between two looks at the files of jobs.
        collect: Time during which tasks are collected for one array.
        ask: Between two questions to Slurm about a job.
        grace: Time that the result of a job that is over may need to appear on a shared file system.
        patience: Time without a heartbeat after which jobs stop.
        awaits_exit: Whether to wait until the process of a cancelled job has exited.
    """

    poll: float
    collect: float
    ask: float
    grace: float
    patience: float
    awaits_exit: bool


_PACES = {
    "slurm": _Pace(2.0, 1.0, 60.0, 30.0, 120.0, awaits_exit=False),
    "local": _Pace(0.1, 0.0, 0.1, 1.0, 5.0, awaits_exit=True),
}


@final
@dataclass(eq=False, slots=True)
class _Task:
    future: TaskFuture
    call: Call
    stop: Path
    job: Any = None
    asked: float = field(default_factory=time.monotonic)
    over_since: float | None = None
    is_stopping: bool = False


@final
class JobPool(AbstractTaskPool):
    """Runs tasks as jobs; one thread submits, follows and cancels them.

    Args:
        executor: The options.

    Raises:
        ConfigError: If Slurm is not available, rejects an option, or the folder cannot be written.
    """

    def __init__(self, executor: SlurmExecutor) -> None:
        super().__init__()
        self._pace = _PACES[executor.cluster]
        self._cpus = executor.cpus
        self._submitter = _submitter(executor)
        self._heartbeat = executor.folder.absolute() / f"driver-{uuid.uuid4().hex}"
        self._beat()
        self._waiting: list[_Task] = []
        self._open: set[TaskFuture] = set()
        self._stops: list[Path] = []
        self._start([self._follow])

    @override
    def _add(self, future: TaskFuture, call: Call) -> None:
        self._waiting.append(_Task(future, call, self._heartbeat.with_name(f"stop-{uuid.uuid4().hex}")))
        self._open.add(future)

    @override
    def _unfinished(self) -> list[TaskFuture]:
        return list(self._open)

    @override
    def _stop(self, future: TaskFuture) -> None:
        with self._changed:
            self._changed.notify()

    def _follow(self) -> None:
        """Submit, follow and finish tasks until shutdown."""
        running: list[_Task] = []
        while (waiting := self._next(is_idle=not running)) is not None:
            self._beat()
            running += self._submitted(waiting)
            running = [task for task in running if not self._is_finished(task)]
        # Jobs that still run stop when the heartbeat no longer changes.
        for path in (self._heartbeat, *self._stops):
            path.unlink(missing_ok=True)

    def _next(self, *, is_idle: bool) -> list[_Task] | None:
        """Return new tasks, perhaps none; wait for one if no job runs. Return None after shutdown."""
        with self._changed:
            while is_idle and not self._waiting:
                if self._is_shut_down:
                    return None
                self._changed.wait()
            if is_idle:
                self._changed.wait_for(lambda: self._is_shut_down, self._pace.collect)
            else:
                self._changed.wait(self._pace.poll)
            waiting = self._waiting
            self._waiting = []
            return waiting

    def _submitted(self, waiting: list[_Task]) -> list[_Task]:
        """Submit tasks as one array, and return those that were submitted."""
        given = [task for task in waiting if not task.future.cancelled()]
        for task in waiting:
            if task not in given:
                self._finish(task)
        if not given:
            return []
        try:
            with self._submitter.batch():
                for task in given:
                    files = (self._heartbeat, task.stop)
                    task.job = self._submitter.submit(run_task, task.call, self._cpus, files, self._pace.patience)
        except Exception as error:  # ruff: ignore[blind-except] - of `sbatch`, the file system or pickling
            for task in given:
                self._finish(task, error=WorkerLostError(f"a job could not be submitted: {error}"))
            return []
        for task in given:
            task.future.is_started = True
        return given

    def _is_finished(self, task: _Task) -> bool:
        """Finish the future of a task if its job is over or cancelled, and return whether it is."""
        if task.future.cancelled():
            if not task.is_stopping:
                task.job.cancel(check=False)
                with suppress(OSError):
                    task.stop.touch()
                self._stops.append(task.stop)
                self._finish(task)
                task.is_stopping = True
            return not self._pace.awaits_exit or bool(task.job.done())
        now = time.monotonic()
        if task.job.paths.result_pickle.exists():
            self._finish(task, *_outcome(task.job))
            return True
        if task.over_since is None and now - task.asked >= self._pace.ask:
            task.asked = now
            if task.job.done(force_check=True):
                task.over_since = now
        if task.over_since is None or now - task.over_since < self._pace.grace:
            return False
        message = f"job {task.job.job_id} is over without a result ({task.job.state}){_log(task.job)}"
        self._finish(task, error=WorkerLostError(message))
        return True

    def _finish(self, task: _Task, result: object = None, error: BaseException | None = None) -> None:
        with self._changed:
            self._open.discard(task.future)
        task.future.finish(result, error)

    def _beat(self) -> None:
        with suppress(OSError):  # a full disk must not stop this thread
            self._heartbeat.write_text(uuid.uuid4().hex, encoding="ascii")


def _submitter(executor: SlurmExecutor) -> Any:  # ruff: ignore[any-type] - submitit has no annotations of its results
    try:
        executor.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = submitit.AutoExecutor(folder=executor.folder.absolute() / "%j", cluster=executor.cluster)
        found.update_parameters(
            name="rebasin",
            timeout_min=executor.minutes,
            cpus_per_task=executor.cpus,
            gpus_per_node=executor.gpus or None,
            mem_gb=executor.memory_gb,
            slurm_partition=executor.partition,
            slurm_account=executor.account,
            slurm_array_parallelism=executor.jobs,
            slurm_additional_parameters=dict(executor.parameters) or None,
        )
    except (RuntimeError, ValueError, OSError) as error:
        message = (
            f"cannot submit jobs to {executor.cluster!r}: {error}; for a trial on this machine, set `cluster: local`"
        )
        raise ConfigError(message) from error
    return found


def _outcome(job: Any) -> tuple[object, BaseException | None]:  # ruff: ignore[any-type] - a job of submitit
    """Return the result and the exception of a task whose job left a result; one of them is None."""
    try:
        is_result, value = job.result()
    except Exception as error:  # ruff: ignore[blind-except] - Slurm stopped the job, or its result is damaged
        return None, WorkerLostError(f"job {job.job_id} did not finish its task: {error}")
    return (value, None) if is_result else (None, value)


def _log(job: Any) -> str:  # ruff: ignore[any-type] - a job of submitit
    """Return the last lines of the error log of a job."""
    try:
        lines = job.paths.stderr.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"; see {job.paths.folder}"
    return "\n".join(["; its last messages:", *lines[-_LOG_LINES:]])
