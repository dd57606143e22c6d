"""The scheduler with damaged results, other commands, interruptions and random faults."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from rebasin_core.errors import StorageError
from rebasin_core.executors import InProcessExecutor
from rebasin_core.executors.base import Executor
from rebasin_core.studies.engine import scheduler
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.graph import Graph
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Artifact, Store, collect_garbage
from tests.studies.engine.faulty import (
    ALL,
    DAMAGE,
    HANG,
    LOST,
    PASSING,
    PERMANENT,
    VALUES,
    A,
    B,
    C,
    D,
    F,
    Fault,
    G,
    Hanging,
    Lab,
    Recorder,
    Threads,
    blob,
    compute,
    executors,
    folders,
    graph,
    names,
    record,
    run,
    stage,
    values,
)

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
