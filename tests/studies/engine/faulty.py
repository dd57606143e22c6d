"""Stages and executors with chosen faults, for tests of the scheduler."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, final

import pytest
from pydantic import PrivateAttr
from typing_extensions import override

from rebasin_core.errors import DamagedArtifactError, MissingArtifactError, WorkerLostError
from rebasin_core.executors import InProcessExecutor
from rebasin_core.executors.base import Executor
from rebasin_core.studies.engine.observer import Failure, Observer, Outcome
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.engine.worker import described
from rebasin_core.studies.graph import Graph
from rebasin_core.studies.stage import Stage, entries
from rebasin_core.studies.store import Artifact, Store
from rebasin_core.tensors.digests import canonical_json

PASSING = {"error": "OSError", "message": "disk", "permanent": False, "log": "printed before"}
PERMANENT = {"error": "DivergenceError", "message": "diverged", "permanent": True, "log": "printed before"}
LOST = WorkerLostError("killed")
HANG = "hang"
DAMAGE = "damage"
"""Faults of an attempt: an error in the result, a lost worker, a task that hangs, a damaged result."""

Fault = dict[str, Any] | Exception | str


def stage(name: str, *reads: Stage) -> Stage:
    """Return a stage that adds 1 to the sum of the values that it reads."""
    roles = entries({f"input {index}": read.id for index, read in enumerate(reads)})
    return Stage("sum", canonical_json({"name": name}), "{}", roles, (), (), name)


def graph(*stages: Stage) -> Graph:
    found = Graph()
    for each in stages:
        found.add(each)
    return found


@final
class Lab:
    """Computes stages, with faults of their first attempts.

    Attributes:
        faults: Faults of the next attempts of a stage, by name.
        tried: Names of the stages in the order of their attempts.
        tasks: Names of the stages of each task.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.tried: list[str] = []
        self.tasks: list[list[str]] = []
        self._lock = threading.Lock()

    def run(self, text: str) -> str:
        stages = [Stage.from_json(value) for value in json.loads(text)["stages"]]
        self.tasks.append([each.label for each in stages])
        return json.dumps([{"id": each.id, **self._attempt(each)} for each in stages])

    def hangs(self, text: str) -> bool:
        """Whether a task hangs; removes the fault."""
        for value in json.loads(text)["stages"]:
            label = Stage.from_json(value).label
            if self.faults[label][:1] == [HANG]:
                self.tried.append(label)
                self.faults[label].pop(0)
                return True
        return False

    def _attempt(self, each: Stage) -> dict[str, Any]:
        with self._lock:
            self.tried.append(each.label)
            fault = self.faults[each.label].pop(0) if self.faults[each.label] else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, dict):
            return fault
        try:
            compute(self.store, each)
        except (MissingArtifactError, DamagedArtifactError) as error:
            return described(error)
        if fault == DAMAGE:
            record(self.store, each).write_text("damaged")
        return {}


def compute(store: Store, each: Stage) -> Artifact:
    value = 1
    for _, read in each.reads:
        artifact = store.read(read)
        assert store.fetch(artifact, "value.bin").read_bytes() == str(artifact.documents["value"]).encode()
        value += artifact.documents["value"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "value.bin"
        path.write_bytes(str(value).encode())
        return store.write(each.document, {"value": value}, {"value.bin": path}, {"seconds": 0.5})


def record(store: Store, each: Stage) -> Path:
    return Path(store.address) / "records" / each.id[:2] / f"{each.id}.json"


def blob(store: Store, each: Stage) -> Path:
    digest = store.read(each.id).files["value.bin"].sha256
    return Path(store.address) / "blobs" / digest[:2] / digest


@final
class Batches(Executor):
    """Runs tasks of many stages, in the calling process."""

    name: Literal["batches"] = "batches"

    @property
    @override
    def slots(self) -> int:
        return 1

    @override
    def _open(self) -> futures.Executor:
        return InProcessExecutor().open()


@final
class Threads(Executor):
    """Runs tasks in threads, which cannot be stopped."""

    name: Literal["threads"] = "threads"

    @property
    @override
    def slots(self) -> int:
        return 3

    @override
    def _open(self) -> futures.Executor:
        return ThreadPoolExecutor(3)


@final
class Hanging(Executor):
    """Some tasks hang; they can be stopped or not."""

    name: Literal["hanging"] = "hanging"
    stoppable: bool = True
    workers: int = 1
    _hangs: Callable[[str], bool] = PrivateAttr()
    _pools: list[HangingPool] = PrivateAttr(default_factory=list)

    def with_faults(self, lab: Lab) -> Hanging:
        self._hangs = lab.hangs
        return self

    @property
    def pool(self) -> HangingPool:
        return self._pools[-1]

    @property
    @override
    def slots(self) -> int:
        return self.workers

    @override
    def _open(self) -> futures.Executor:
        self._pools.append(HangingPool(self._hangs, stoppable=self.stoppable))
        return self.pool


@final
class HangingPool(futures.Executor):
    def __init__(self, hangs: Callable[[str], bool], *, stoppable: bool) -> None:
        self._hangs = hangs
        self._stoppable = stoppable
        self.hanging: list[HangingFuture] = []
        self.waited: bool | None = None

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        if self._hangs(args[0]):
            found = HangingFuture(stoppable=self._stoppable)
            self.hanging.append(found)
            return found
        return InProcessExecutor().open().submit(fn, *args, **kwargs)

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.waited = wait


@final
class HangingFuture(futures.Future[Any]):
    def __init__(self, *, stoppable: bool) -> None:
        super().__init__()
        self._stoppable = stoppable

    @override
    def running(self) -> bool:
        return not self.done()

    @override
    def cancel(self) -> bool:
        return self._stoppable and super().cancel()


class Recorder(Observer):
    """Remembers all events."""

    def __init__(self) -> None:
        self.submissions: list[str] = []
        self.retries: list[str] = []
        self.finishes: list[str] = []
        self.elsewhere: list[str] = []
        self.failures: list[Failure] = []
        self.outcomes: list[Outcome] = []

    @override
    def submitted(self, stage: Stage) -> None:
        self.submissions.append(stage.label)

    @override
    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        (self.finishes if artifact is not None else self.elsewhere).append(stage.label)

    @override
    def retried(self, stage: Stage, reason: str) -> None:
        self.retries.append(stage.label)

    @override
    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)

    @override
    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def names(stages: Graph, identities: Sequence[str]) -> list[str]:
    return sorted(stages[identity].label for identity in identities)


def values(store: Store) -> dict[str, int]:
    """Return the stored values by the name of the stage."""
    found = store.read_many(store.ids())
    return {artifact.stage["options"]["name"]: artifact.documents["value"] for artifact in found.values()}


# A diamond, a chain, and a stage that reads both.
A = stage("a")
B = stage("b", A)
C = stage("c", A)
D = stage("d", B, C)
E = stage("e")
F = stage("f", E)
G = stage("g", D, F)
ALL = graph(A, B, C, D, E, F, G)
VALUES = {"a": 1, "b": 2, "c": 2, "d": 5, "e": 1, "f": 2, "g": 8}


def run(
    lab: Lab,
    executor: Executor | None = None,
    *,
    stages: Graph = ALL,
    observers: tuple[Observer, ...] = (),
    **settings: Any,
) -> Outcome:
    chosen = Settings(run=lab.run, **settings)
    targets = [each.id for each in stages]
    return Scheduler(stages, lab.store, executor or InProcessExecutor(), chosen, observers).run(targets)


def folders(store: Store) -> list[str]:
    """Return the leases and sessions that remain."""
    root = Path(store.address)
    return [str(path) for name in ("leases", "sessions") for path in (root / name).rglob("*") if path.is_file()]


EXECUTORS = {"in_process": InProcessExecutor(), "threads": Threads(), "batches": Batches(task_seconds=5)}
executors = pytest.mark.parametrize("executor", EXECUTORS.values(), ids=list(EXECUTORS))
