"""The scheduler: submits stages whose inputs are stored, and handles results, lost workers and other commands."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, final

from rebasin_core.errors import (
    DamagedArtifactError,
    FileFormatError,
    MissingArtifactError,
    StorageError,
    WorkerLostError,
)
from rebasin_core.studies.engine.observer import Failure, Observer, Outcome
from rebasin_core.studies.engine.state import Progress
from rebasin_core.studies.engine.worker import described, run_task, task_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from concurrent.futures import Executor as Pool

    from rebasin_core.executors.base import Executor
    from rebasin_core.studies.graph import Graph
    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Session, Store

# Seconds between looks at stages that another command computes, and at timeouts.
_POLL = 1.0


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a plan is computed; these settings change no result.

    Attributes:
        device: Device of the workers, as for `Workspace`.
        retries: How often a stage is tried again after its worker was lost, timed out, or could not store the result.
        timeout: Seconds after which an attempt of a stage is stopped.
        stop_at_failure: Whether to stop at the first failure.
        raise_errors: Whether to raise an error of a task, instead of computing the task again.
        known_failures: Failures of earlier commands by identity; these stages are not tried again.
        recorded_failures: Identities of all stages of which the store has a failure; it is removed when they succeed.
        seconds: Expected seconds of stages by identity, for the order and the grouping into tasks.
        run: Function that computes a task; it must be picklable unless the executor runs tasks in this process.
    """

    device: str = "auto"
    retries: int = 2
    timeout: float = 86_400.0
    stop_at_failure: bool = False
    raise_errors: bool = False
    known_failures: Mapping[str, Failure] = field(default_factory=dict)
    recorded_failures: Collection[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    run: Callable[[str], str] = run_task


@final
@dataclass(slots=True)
class _Task:
    """Stages that one worker computes.

    Attributes:
        stages: The stages.
        since: When the task was first seen running.
        is_stuck: Whether it exceeded its timeout and could not be stopped; it still occupies a worker.
    """

    stages: Sequence[Stage]
    since: float | None = None
    is_stuck: bool = False


@final
class Scheduler:
    """Computes a plan once.

    Args:
        graph: The graph of stages.
        store: The store.
        executor: Runs the tasks.
        settings: How the plan is computed.
        observers: Receive the events.
    """

    def __init__(
        self, graph: Graph, store: Store, executor: Executor, settings: Settings, observers: Sequence[Observer] = ()
    ) -> None:
        self._graph = graph
        self._store = store
        self._executor = executor
        self._slots = executor.slots
        self._settings = settings
        self._observers = observers
        self._running: dict[Future[str], _Task] = {}
        self._elsewhere: dict[str, Stage] = {}
        self._attempts: Counter[str] = Counter()
        # How often a stage could not read a result, by both identities.
        self._repairs: Counter[tuple[str, str]] = Counter()
        # Stages of tasks that were lost with other stages: any of them may be the cause, so each gets its own task.
        self._alone: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._num_stuck = 0
        self._computed: list[str] = []
        self._reused = 0
        self._work_seconds = 0.0

    def run(self, targets: Iterable[str], stored: Collection[str] | None = None) -> Outcome:
        """Compute the stages that the targets need.

        Args:
            targets: Identities of the stages whose results are requested.
            stored: Identities of the stages with a stored result; those in the store if None.

        Returns:
            The computed stages and the failed ones. Stages remain unfinished after a failure with `stop_at_failure`, or
            if tasks that exceed the timeout and cannot be stopped occupy all workers.

        Raises:
            StorageError: If the store cannot be used.
            KeyboardInterrupt: If the command is interrupted; running stages are stopped.
        """
        start = monotonic()
        present = self._store.ids() if stored is None else set(stored)
        self._reused = sum(stage.id in present for stage in self._graph)
        state = Progress(self._graph, targets, present)
        state.start(self._settings.seconds)
        needed = len(state.needed)
        self._notify(lambda observer: observer.started(len(self._graph), needed))
        try:
            if needed:
                with self._store.session() as session:
                    self._compute(state, session)
        finally:
            outcome = Outcome(
                tuple(self._computed),
                self._reused,
                self._failures,
                tuple(state.blocked),
                len(state.needed),
                monotonic() - start,
                self._work_seconds,
            )
            self._notify(lambda observer: observer.ended(outcome))
        return outcome

    def _compute(self, state: Progress, session: Session) -> None:
        for identity, failure in self._settings.known_failures.items():
            if identity in state.needed:
                self._fail(state, failure)
        if self._is_over(state):
            return
        pool = self._executor.open()
        try:
            while not self._is_over(state):
                self._submit(state, session, pool)
                self._collect(state, session)
                self._look_elsewhere(state, session)
        finally:
            # Before the pool is shut down: `cancel` also stops running tasks, if the executor can. The session releases
            # the leases afterwards.
            for future in self._running:
                future.cancel()
            pool.shutdown(wait=not self._num_stuck, cancel_futures=True)

    def _is_over(self, state: Progress) -> bool:
        return state.is_finished or self._is_stopped

    @property
    def _is_stopped(self) -> bool:
        is_enough = self._settings.stop_at_failure and bool(self._failures)
        return is_enough or self._num_stuck >= self._slots

    def _submit(self, state: Progress, session: Session, pool: Pool) -> None:
        """Submit ready stages while the executor accepts tasks."""
        while state.has_ready and len(self._running) < self._slots and not self._is_stopped:
            stages = self._next_stages(state, session)
            if not stages:
                continue
            for stage in stages:
                for observer in self._observers:
                    observer.submitted(stage)
            read = {identity for stage in stages for _, identity in stage.reads}
            sources = [self._graph[identity] for identity in read if self._graph[identity].kind == "data"]
            text = task_text(self._store.address, stages, sources, device=self._settings.device)
            future = pool.submit(self._settings.run, text)
            self._running[future] = _Task(stages)
            if future.done():  # an executor that runs tasks in this process
                self._collect(state, session)

    def _next_stages(self, state: Progress, session: Session) -> list[Stage]:
        """Return ready stages for one task, with their leases; stages of other commands are remembered."""
        found: list[Stage] = []
        seconds = 0.0
        while state.has_ready and (not found or seconds < self._executor.task_seconds):
            if found and state.peek().id in self._alone:
                break
            stage = state.pop()
            if not session.acquire(stage.id):
                self._elsewhere[stage.id] = stage
            elif self._store.has(stage.id):
                session.release(stage.id)
                self._finish(state, stage, computed=False)
            else:
                found.append(stage)
                seconds += self._settings.seconds.get(stage.id, 1.0)
                if stage.id in self._alone:
                    break
        return found

    def _collect(self, state: Progress, session: Session) -> None:
        """Wait for a task, and handle those that ended or exceed the timeout."""
        if not self._running:
            return
        done, _ = wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED)
        for future in done:
            task = self._running.pop(future)
            if task.is_stuck:  # its stages have been submitted again
                self._num_stuck -= 1
            else:
                _release(session, task.stages)
                self._handle(state, future, task)
        for future, task in list(self._running.items()):
            self._watch(state, session, future, task)

    def _handle(self, state: Progress, future: Future[str], task: _Task) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None and (self._settings.raise_errors or not isinstance(error, Exception)):
            raise error
        if error is not None or future.cancelled():
            self._lose(state, task, _LOST if error is None else described(error))
            return
        stages = {stage.id: stage for stage in task.stages}
        for result in json.loads(future.result()):
            stage = stages[result["id"]]
            if "error" not in result:
                self._finish(state, stage, computed=True)
            elif "culprit" in result:
                self._repair(state, stage, result)
            else:
                self._charge(state, stage, result)

    def _watch(self, state: Progress, session: Session, future: Future[str], task: _Task) -> None:
        """Stop a task that has been running for longer than the timeout of its stages."""
        if task.since is None:
            task.since = monotonic() if future.running() else None
        limit = self._settings.timeout * len(task.stages)
        if task.is_stuck or task.since is None or monotonic() - task.since < limit:
            return
        if future.cancel():
            del self._running[future]
        elif future.done():  # in the meantime
            return
        else:
            task.is_stuck = True
            self._num_stuck += 1
        _release(session, task.stages)
        self._lose(state, task, {**_LOST, "message": f"took longer than the timeout of {self._settings.timeout:g} s"})

    def _lose(self, state: Progress, task: _Task, result: Mapping[str, Any]) -> None:
        """Handle a task that ended without a result; stages whose results it stored are finished."""
        remaining: list[Stage] = []
        for stage in task.stages:
            if self._store.has(stage.id):
                self._finish(state, stage, computed=True)
            else:
                remaining.append(stage)
        if len(remaining) == 1:
            self._charge(state, remaining[0], {**result, "permanent": False})
            return
        for stage in remaining:
            self._alone.add(stage.id)
            state.push(stage)

    def _charge(self, state: Progress, stage: Stage, result: Mapping[str, Any]) -> None:
        """Count a failed attempt to compute a stage, and try it again unless that is hopeless or was done often."""
        self._attempts[stage.id] += 1
        if result["permanent"] or self._attempts[stage.id] > self._settings.retries:
            self._fail(state, self._failure(stage, result))
            return
        reason = f"{result['error']}: {result['message']}"
        self._notify(lambda observer: observer.retried(stage, reason))
        state.push(stage)

    def _repair(self, state: Progress, stage: Stage, result: Mapping[str, Any]) -> None:
        """Compute a stage again whose stored result is missing or damaged, and then the one that reads it."""
        culprit = result["culprit"]
        self._repairs[stage.id, culprit] += 1
        if culprit not in self._graph or self._repairs[stage.id, culprit] > max(1, self._settings.retries):
            self._attempts[stage.id] += 1
            self._fail(state, self._failure(stage, result))
            return
        if self._is_intact(culprit):  # it was computed again since then
            state.push(stage)
            return
        self._store.remove(culprit)
        self._notify(lambda observer: observer.retried(self._graph[culprit], result["message"]))
        state.recompute(culprit, stage)

    def _is_intact(self, identity: str) -> bool:
        try:
            for file in self._store.read(identity).files.values():
                self._store.storage.verify_blob(file)
        except (MissingArtifactError, FileFormatError):
            return False
        return True

    def _failure(self, stage: Stage, result: Mapping[str, Any]) -> Failure:
        log = result.get("log", "")
        attempts = self._attempts[stage.id]
        return Failure(stage, result["error"], result["message"], log, attempts, bool(result["permanent"]))

    def _fail(self, state: Progress, failure: Failure) -> None:
        stage = failure.stage
        self._failures[stage.id] = failure
        state.fail(stage.id)
        if stage.id not in self._settings.known_failures:
            record_failure(self._store, failure)
        self._notify(lambda observer: observer.failed(failure))

    def _finish(self, state: Progress, stage: Stage, *, computed: bool) -> None:
        artifact = None
        if computed:
            try:
                artifact = self._store.read(stage.id)
            except (MissingArtifactError, DamagedArtifactError) as error:
                self._store.remove(stage.id)
                self._charge(state, stage, {**described(error), "permanent": False})
                return
            self._computed.append(stage.id)
            self._work_seconds += float(artifact.about.get("seconds", 0.0))
            if stage.id in self._attempts or stage.id in self._settings.recorded_failures:
                self._store.clear_failure(stage.id)
        else:
            self._reused += 1
        self._failures.pop(stage.id, None)
        state.finish(stage.id)
        self._notify(lambda observer: observer.finished(stage, artifact))

    def _look_elsewhere(self, state: Progress, session: Session) -> None:
        """Look at the stages that other commands compute: they are stored, abandoned, or still being computed."""
        for identity, stage in list(self._elsewhere.items()):
            if self._store.has(identity):
                del self._elsewhere[identity]
                self._finish(state, stage, computed=False)
            elif session.holder(identity) is None:
                del self._elsewhere[identity]
                state.push(stage)
        if self._elsewhere and not self._running and not state.has_ready:
            sleep(_POLL)

    def _notify(self, event: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            event(observer)


_LOST = {"error": WorkerLostError.__name__, "message": "the task was cancelled", "permanent": False}


def _release(session: Session, stages: Sequence[Stage]) -> None:
    for stage in stages:
        session.release(stage.id)


def record_failure(store: Store, failure: Failure) -> None:
    """Store a failure and its log, which a later command can report; errors of the store are ignored.

    Args:
        store: The store.
        failure: The failure.
    """
    document = {
        "label": failure.stage.label,
        "kind": failure.stage.kind,
        "error": failure.error,
        "message": failure.message,
        "attempts": failure.attempts,
        "permanent": failure.is_permanent,
    }
    try:
        store.write_failure(failure.stage.id, document)
        store.write_log(failure.stage.id, failure.log)
    except StorageError:  # the disk may be full, which was the failure
        return
