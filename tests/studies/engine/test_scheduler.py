"""The scheduler with executors and stages that have faults."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from typing_extensions import override

from rebasin_core.errors import RebasinError
from rebasin_core.executors import InProcessExecutor
from rebasin_core.executors.base import Executor
from rebasin_core.studies.engine.observer import Failure
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Store
from tests.studies.engine.faulty import (
    ALL,
    HANG,
    LOST,
    PASSING,
    PERMANENT,
    VALUES,
    A,
    B,
    Batches,
    C,
    E,
    F,
    Fault,
    Hanging,
    Lab,
    Recorder,
    compute,
    executors,
    folders,
    graph,
    names,
    run,
    stage,
    values,
)


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
