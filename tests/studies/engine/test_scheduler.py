"""The scheduler with executors and stages that have faults."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from rebasin_core.errors import RebasinError, StorageError
from rebasin_core.executors import InProcessExecutor
from rebasin_core.executors.base import Executor
from rebasin_core.studies.engine import scheduler
from rebasin_core.studies.engine.observer import Failure, Observer, Outcome
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.graph import Graph
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Artifact, Store, collect_garbage
from tests.studies.engine.faulty import (
    DAMAGE,
    HANG,
    LOST,
    PASSING,
    PERMANENT,
    Batches,
    Fault,
    Hanging,
    Lab,
    Recorder,
    Threads,
    blob,
    compute,
    graph,
    names,
    record,
    stage,
    values,
)

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


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, whose users look at each other more often than usual."""
    monkeypatch.setattr(scheduler, "_POLL", 0.02)
    return Store.open(tmp_path / "store")


@pytest.fixture
def lab(store: Store) -> Lab:
    return Lab(store)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


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


@executors
def test_every_stage_is_computed_once_after_those_that_it_reads(lab: Lab, executor: Executor, seen: Recorder) -> None:
    outcome = run(lab, executor, observers=(seen,))
    assert values(lab.store) == VALUES
    assert sorted(lab.tried) == sorted(VALUES)
    assert names(ALL, outcome.computed) == sorted(VALUES) == sorted(seen.finishes)
    assert (outcome.reused, outcome.failures, outcome.blocked, outcome.unfinished) == (0, {}, (), 0)
    assert outcome.work_seconds == 0.5 * 7
    assert seen.outcomes == [outcome]
    assert not folders(lab.store)
    again = run(lab, executor)
    assert (again.computed, again.reused, len(lab.tried)) == ((), 7, 7)


def test_only_what_the_targets_need_is_computed(lab: Lab) -> None:
    Scheduler(ALL, lab.store, InProcessExecutor(), Settings(run=lab.run)).run([F.id, B.id])
    assert sorted(values(lab.store)) == ["a", "b", "e", "f"]


def test_stages_on_the_longest_chain_come_first(lab: Lab) -> None:
    run(lab, seconds={E.id: 30.0, C.id: 10.0})
    # E: 30 + 1 + 1; A: 1 + 10 + 1 + 1; C before B; F as long as D.
    assert "".join(lab.tried) in {"eacbfdg", "eacbdfg"}


@executors
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fault", [PASSING, LOST], ids=["passing", "lost"])
def test_passing_faults_are_tried_again(lab: Lab, executor: Executor, seen: Recorder, fault: Fault, count: int) -> None:
    lab.faults["c"] = [fault] * count
    lab.store.write_failure(C.id, {"permanent": False})  # of an earlier command
    outcome = run(lab, executor, observers=(seen,), recorded_failures=[C.id])
    assert values(lab.store) == VALUES
    assert not outcome.failures
    assert not lab.store.read_failures()
    assert set(seen.retries) <= {"c"}
    assert lab.tried.count("c") == count + 1


@executors
@pytest.mark.parametrize("fault", [PASSING, LOST], ids=["passing", "lost"])
def test_after_all_retries_a_stage_fails_and_blocks_its_dependents_only(
    lab: Lab, executor: Executor, seen: Recorder, fault: Fault
) -> None:
    lab.faults["c"] = [fault] * 10
    outcome = run(lab, executor, observers=(seen,), retries=2)
    assert values(lab.store) == {"a": 1, "b": 2, "e": 1, "f": 2}
    failure = outcome.failures[C.id]
    assert (failure.attempts, failure.is_permanent, list(outcome.failures)) == (3, False, [C.id])
    assert names(ALL, list(outcome.blocked)) == ["d", "g"]
    assert outcome.unfinished == 0
    assert seen.failures == [failure]
    assert lab.store.read_failures()[C.id]["permanent"] is False
    assert not folders(lab.store)
    if fault is PASSING:
        assert lab.store.read_log(C.id) == "printed before"
    else:
        assert failure.error == "WorkerLostError"
    # The next command tries again.
    lab.faults.clear()
    assert names(ALL, run(lab, executor).computed) == ["c", "d", "g"]
    assert values(lab.store) == VALUES


def test_permanent_failures_are_not_tried_again(lab: Lab) -> None:
    lab.faults["c"] = [PERMANENT]
    lab.faults["e"] = [PASSING, PERMANENT]
    outcome = run(lab)
    assert {each: outcome.failures[each].attempts for each in outcome.failures} == {C.id: 1, E.id: 2}
    assert names(ALL, list(outcome.blocked)) == ["d", "f", "g"]
    error = {"error": "DivergenceError", "message": "diverged"}
    described = {"label": "c", "kind": "sum", "attempts": 1, "permanent": True, **error}
    assert lab.store.read_failures()[C.id] == described
    assert lab.store.read_log(C.id) == "printed before"


def test_known_failures_are_not_tried_again(lab: Lab, store: Store) -> None:
    """Also those of stages that are ready immediately, and without workers if no other stage remains."""
    known = {each.id: Failure(each, "DivergenceError", "diverged") for each in (B, E)}
    outcome = run(lab, known_failures=known)
    assert sorted(values(store)) == ["a", "c"]
    assert outcome.failures == known
    assert names(ALL, list(outcome.blocked)) == ["d", "f", "g"]
    assert not store.read_failures()  # it is not written again

    unopened = Hanging()  # it would fail
    assert run(lab, unopened, known_failures=known).failures == known
    outcome = run(lab, recorded_failures=[B.id, E.id])
    assert names(ALL, outcome.computed) == ["b", "d", "e", "f", "g"]
    assert values(store) == VALUES


def test_stop_at_the_first_failure(lab: Lab) -> None:
    lab.faults["a"] = [PERMANENT]
    outcome = run(lab, stop_at_failure=True, seconds={A.id: 10.0})
    assert lab.tried == ["a"]
    assert (names(ALL, list(outcome.blocked)), outcome.unfinished) == (["b", "c", "d", "g"], 2)


def test_errors_of_tasks_are_raised_with_raise_errors(lab: Lab) -> None:
    lab.faults["a"] = [RebasinError("in this process")]
    with pytest.raises(RebasinError, match="in this process"):
        run(lab, raise_errors=True)
    assert not folders(lab.store)


def test_an_error_of_a_worker_keeps_its_name(lab: Lab) -> None:
    lab.faults["a"] = [ValueError("no such device")] * 3
    failure = run(lab).failures[A.id]
    assert (failure.error, failure.message, failure.is_permanent) == ("ValueError", "no such device", False)


# Several stages in one task.

MANY = graph(*(stage(str(index)) for index in range(6)))


def test_only_the_stage_at_fault_is_charged(lab: Lab, seen: Recorder) -> None:
    lab.faults["3"] = [LOST] * 10
    outcome = run(lab, Batches(task_seconds=6), stages=MANY, observers=(seen,), retries=1)
    # All together; then each that was not stored alone, until only one remains.
    assert lab.tasks[0] == list("012345")
    assert sorted(map(tuple, lab.tasks[1:])) == [("3",), ("3",), ("4",), ("5",)]
    assert [(f.stage.label, f.attempts) for f in outcome.failures.values()] == [("3", 2)]
    assert seen.retries == ["3"]
    assert sorted(values(lab.store)) == list("01245")


def test_without_retries_the_others_are_computed(lab: Lab) -> None:
    lab.faults["0"] = [LOST] * 10
    outcome = run(lab, Batches(task_seconds=6), stages=MANY, retries=0)
    assert names(MANY, list(outcome.failures)) == ["0"]
    assert sorted(values(lab.store)) == list("12345")


def test_a_failure_before_the_loss_is_not_blamed_on_it(lab: Lab) -> None:
    lab.faults["1"] = [PERMANENT] * 10
    lab.faults["2"] = [LOST]
    outcome = run(lab, Batches(task_seconds=6), stages=MANY)
    assert {f.stage.label: (f.error, f.attempts) for f in outcome.failures.values()} == {"1": ("DivergenceError", 1)}
    assert sorted(values(lab.store)) == list("02345")


def test_durations_limit_a_task(lab: Lab) -> None:
    seconds = {each.id: 4.0 for each in MANY}
    run(lab, Batches(task_seconds=6), stages=MANY, seconds=seconds)
    assert lab.tasks == [["0", "1"], ["2", "3"], ["4", "5"]]


# Tasks that hang.


def test_a_hanging_stage_is_stopped_and_tried_again(lab: Lab, seen: Recorder) -> None:
    lab.faults["c"] = [HANG]
    executor = Hanging().with_faults(lab)
    outcome = run(lab, executor, observers=(seen,), timeout=0.1)
    assert values(lab.store) == VALUES
    assert seen.retries == ["c"]
    assert executor.pool.hanging[0].cancelled()
    assert (outcome.failures, executor.pool.waited) == ({}, True)


def test_a_stage_that_always_hangs_fails(lab: Lab) -> None:
    lab.faults["c"] = [HANG] * 10
    outcome = run(lab, Hanging().with_faults(lab), timeout=0.1, retries=1)
    failure = outcome.failures[C.id]
    assert (failure.error, failure.attempts, failure.is_permanent) == ("WorkerLostError", 2, False)
    assert failure.message == "took longer than the timeout of 0.1 s"
    assert sorted(values(lab.store)) == ["a", "b", "e", "f"]


def test_a_task_that_cannot_be_stopped_occupies_its_worker(lab: Lab) -> None:
    lab.faults["c"] = [HANG]
    executor = Hanging(stoppable=False, workers=2).with_faults(lab)
    outcome = run(lab, executor, timeout=0.1)
    assert values(lab.store) == VALUES
    assert (outcome.failures, outcome.unfinished) == ({}, 0)
    assert executor.pool.waited is False


def test_the_command_stops_if_all_workers_are_occupied(lab: Lab) -> None:
    lab.faults["c"] = [HANG] * 2
    executor = Hanging(stoppable=False, workers=2).with_faults(lab)
    outcome = run(lab, executor, timeout=0.1)
    assert outcome.unfinished == 7 - len(outcome.computed) >= 3
    assert not folders(lab.store)
    assert names(ALL, run(lab).computed) == sorted(VALUES.keys() - names(ALL, outcome.computed))


def test_a_result_after_the_timeout_frees_the_worker(lab: Lab) -> None:
    class Ending(Recorder):
        @override
        def retried(self, stage: Stage, reason: str) -> None:
            super().retried(stage, reason)
            executor.pool.hanging[-1].set_result("[]")

    lab.faults["c"] = [HANG]
    lab.faults["d"] = [HANG]
    lab.faults["g"] = [HANG]
    executor = Hanging(stoppable=False, workers=2).with_faults(lab)
    seen = Ending()
    outcome = run(lab, executor, observers=(seen,), timeout=0.05)
    assert (outcome.unfinished, seen.retries) == (0, ["c", "d", "g"])
    assert values(lab.store) == VALUES


def test_a_result_that_arrives_at_the_timeout_is_used(lab: Lab) -> None:
    lab.faults["a"] = [HANG]
    executor = Hanging().with_faults(lab)

    def finish(future: Future[Any]) -> bool:
        compute(lab.store, A)
        future.set_result(f'[{{"id": "{A.id}"}}]')
        return False

    seen = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.studies.engine.faulty.HangingFuture.cancel", finish)
        outcome = run(lab, executor, observers=(seen,), timeout=0.1)
    assert (outcome.failures, seen.retries, lab.tried.count("a")) == ({}, [], 1)
    assert values(lab.store) == VALUES


# Stored results that are damaged or missing.


@pytest.mark.parametrize("of", [record, blob])
@executors
def test_a_damaged_input_is_computed_again(lab: Lab, store: Store, executor: Executor, of: Any, seen: Recorder) -> None:
    run(lab)
    for each in (B, C, D, G):
        store.remove(each.id)
    damaged = of(store, A)
    damaged.chmod(0o644)
    damaged.write_bytes(b"0")
    lab.tried.clear()
    outcome = run(lab, executor, observers=(seen,), retries=0)
    assert values(store) == VALUES
    assert (outcome.failures, set(seen.retries)) == ({}, {"a"})
    found = Counter(lab.tried)
    assert (found["a"], found["e"], found["f"]) == (1, 0, 0)
    assert max(found["b"], found["c"]) == 2  # the one that met the damage first


def test_inputs_that_were_removed_are_computed_with_their_own_inputs(lab: Lab, store: Store) -> None:
    """The garbage collection keeps D and F; G needs D, which is then damaged."""
    run(lab)
    store.remove(G.id)
    store.write_root("kept", [D.id, F.id])
    collect_garbage(store, grace=-1)
    assert sorted(values(store)) == ["d", "f"]
    lab.tried.clear()
    record(store, D).write_text("damaged")
    outcome = Scheduler(ALL, store, InProcessExecutor(), Settings(run=lab.run, retries=0)).run([G.id])
    assert not outcome.failures
    assert lab.tried[0] == lab.tried[-1] == "g"
    assert sorted(lab.tried[1:-1]) == ["a", "b", "c", "d"]
    assert values(store) == {name: value for name, value in VALUES.items() if name != "e"}


def test_many_damaged_inputs_of_one_stage(lab: Lab, store: Store) -> None:
    sources = [stage(str(index)) for index in range(8)]
    last = stage("last", *sources)
    stages = graph(*sources, last)
    run(lab, stages=stages)
    store.remove(last.id)
    for each in sources:
        record(store, each).write_text("damaged")
    outcome = run(lab, stages=stages, retries=0)
    assert not outcome.failures
    assert values(store)["last"] == 9


def test_a_disk_that_damages_everything_is_a_failure(lab: Lab, store: Store) -> None:
    lab.faults["a"] = [DAMAGE] * 20
    outcome = run(lab, retries=2)
    assert names(ALL, list(outcome.failures)) == ["a"]
    assert outcome.failures[A.id].error == "DamagedArtifactError"
    assert names(ALL, list(outcome.blocked)) == ["b", "c", "d", "g"]
    assert sorted(values(store)) == ["e", "f"]


def test_a_result_that_was_damaged_while_it_was_written(lab: Lab, store: Store) -> None:
    lab.faults["a"] = [DAMAGE]
    assert not run(lab).failures
    assert values(store) == VALUES


def test_an_input_that_is_removed_again_and_again(lab: Lab, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = lab._attempt

    def removing(each: Stage) -> dict[str, Any]:
        if each.label == "b":
            store.remove(A.id)
        return attempt(each)

    monkeypatch.setattr(lab, "_attempt", removing)
    outcome = run(lab, retries=2)
    assert names(ALL, list(outcome.failures)) == ["b"]
    assert lab.tried.count("b") == 3
    assert names(ALL, list(outcome.blocked)) == ["d", "g"]


# Sessions of other processes that use the store.


@executors
def test_results_of_another_command_are_awaited(lab: Lab, store: Store, executor: Executor, seen: Recorder) -> None:
    def other() -> None:
        time.sleep(0.2)
        compute(store, A)
        session.release(A.id)

    with store.session() as session:
        assert session.acquire(A.id)
        thread = threading.Thread(target=other)
        thread.start()
        outcome = run(lab, executor, observers=(seen,))
        thread.join()
    assert values(store) == VALUES
    assert (lab.tried.count("a"), seen.elsewhere, outcome.reused) == (0, ["a"], 1)
    assert len(outcome.computed) == 6
    assert not folders(store)


def test_stages_that_another_command_abandons_are_computed(lab: Lab, store: Store) -> None:
    with store.session() as session:
        assert session.acquire(A.id)
        timer = threading.Timer(0.2, session.release, [A.id])
        timer.start()
        outcome = run(lab)
        timer.join()
    assert values(store) == VALUES
    assert len(outcome.computed) == 7


def test_a_result_that_appears_before_its_lease_is_acquired(lab: Lab, store: Store) -> None:
    class Ahead(Recorder):
        @override
        def finished(self, stage: Stage, artifact: Artifact | None) -> None:
            if stage.id == A.id:
                compute(store, B)

    outcome = run(lab, observers=(Ahead(),))
    assert values(store) == VALUES
    assert ("b" in lab.tried, outcome.reused) == (False, 1)


def test_two_commands_at_the_same_time(lab: Lab, store: Store) -> None:
    other = Lab(Store.open(store.address))
    thread = threading.Thread(target=run, args=(other, Threads()))
    thread.start()
    outcome = run(lab, Threads())
    thread.join()
    assert values(store) == VALUES
    assert sorted(lab.tried + other.tried) == sorted(VALUES)  # none twice
    assert len(outcome.computed) + outcome.reused == 7
    assert not folders(store)


# Ctrl-C, and errors of the store.


@executors
def test_leases_are_released_and_the_same_command_finishes(lab: Lab, store: Store, executor: Executor) -> None:
    class Interrupting(Recorder):
        @override
        def finished(self, stage: Stage, artifact: Artifact | None) -> None:
            if stage.id == A.id:
                raise KeyboardInterrupt

    seen = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(lab, executor, observers=(Interrupting(), seen))
    assert not folders(store)
    assert "a" in values(store)
    assert seen.outcomes[0].unfinished >= 4
    run(lab, executor)
    assert values(store) == VALUES


def test_an_interruption_of_a_running_stage(lab: Lab, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Stage) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "_attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lab)
    assert not folders(store)


def test_running_tasks_are_stopped(lab: Lab, store: Store) -> None:
    class Interrupting(Recorder):
        @override
        def submitted(self, stage: Stage) -> None:
            if executor.pool.hanging:
                raise KeyboardInterrupt

    lab.faults["a"] = [HANG]
    executor = Hanging(workers=2).with_faults(lab)
    with pytest.raises(KeyboardInterrupt):
        run(lab, executor, observers=(Interrupting(),), seconds={A.id: 10.0})
    assert executor.pool.hanging[0].cancelled()
    assert executor.pool.waited is True
    assert not folders(store)


def test_a_failure_is_reported_if_it_cannot_be_stored(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.faults["c"] = [PERMANENT]
    run(lab)

    full_disk = StorageError("No space left on device")

    def full(*_: object, **__: object) -> None:
        raise full_disk

    lab.faults["c"] = [PERMANENT]
    monkeypatch.setattr(Store, "write_failure", full)
    assert list(run(lab).failures) == [C.id]


def random_graph(chooser: random.Random) -> Graph:
    stages: list[Stage] = []
    for index in range(chooser.randrange(1, 25)):
        reads = chooser.sample(stages, min(len(stages), chooser.randrange(4)))
        stages.append(stage(str(index), *reads))
    return graph(*stages)


def dependents_of(stages: Graph, failed: set[str]) -> set[str]:
    found: set[str] = set()
    for each in stages:
        if {read for _, read in each.reads} & (failed | found):
            found.add(each.id)
    return found - failed


def check_random_faults(seed: int, folder: Path) -> None:
    """Any faults: all possible stages are computed with the right value, and the next command finishes the rest."""
    chooser = random.Random(seed)
    stages = random_graph(chooser)
    clean = Lab(Store.open(folder / "clean"))
    run(clean, stages=stages)
    lab = Lab(Store.open(folder / "store"))
    kinds: list[Fault] = [PASSING, LOST, HANG, DAMAGE, PERMANENT]
    for each in stages:
        lab.faults[each.label] = chooser.choices(kinds[: chooser.randrange(1, 6)], k=chooser.choice([0, 0, 0, 1, 2]))
    permanent = {each.id for each in stages if PERMANENT in lab.faults[each.label]}
    executor = Hanging(workers=chooser.randrange(1, 4), task_seconds=chooser.choice([0, 2, 5])).with_faults(lab)
    outcome = run(lab, executor, stages=stages, timeout=0.01, retries=4)
    assert outcome.unfinished == 0
    assert outcome.failures.keys() == permanent - set(outcome.blocked)
    assert set(outcome.blocked) == dependents_of(stages, set(outcome.failures))
    lab.faults.clear()
    for each in chooser.sample(list(stages), min(3, len(stages))):
        if lab.store.has(each.id):
            chooser.choice([lambda path: path.write_text("damaged"), Path.unlink])(record(lab.store, each))
    again = run(lab, InProcessExecutor(), stages=stages, retries=4)
    assert (again.failures, again.blocked, again.unfinished) == ({}, (), 0)
    digests = {artifact.id: artifact.digest for artifact in clean.store.read_many(clean.store.ids()).values()}
    found = {artifact.id: artifact.digest for artifact in lab.store.read_many(lab.store.ids()).values()}
    assert found.items() <= digests.items()
    assert lab.store.ids() == clean.store.ids()
    assert not folders(lab.store)


@pytest.mark.parametrize("seed", range(8))
def test_random_faults(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_POLL", 0.02)
    check_random_faults(seed, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 400))
def test_many_random_faults(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_POLL", 0.02)
    check_random_faults(seed, tmp_path)
