"""Leases: killed processes, dead machines, clocks that jump, and damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rebasin_core.errors import InvalidInputError, StorageError
from rebasin_core.studies.store import Session, Store, collect_garbage, session
from rebasin_core.studies.store.local import LocalStorage
from rebasin_core.studies.store.process import machine, start_of

STAGE = "a" * 64
HOLD = """
import sys, time
from rebasin_core.studies.store import Store
with Store.open(sys.argv[1]).session() as session:
    assert session.acquire("a" * 64)
    print(session.id, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(session, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def write_session(store: Store, name: str, **changes: object) -> Path:
    """Write the file of a session on another machine, with a lease on the stage."""
    entries: dict[str, Any] = {"host": "node7", "process": 12, "machine": "boot", "started": "5", "counter": 3}
    store.prepare()
    folder = Path(store.address)
    for kind in ("sessions", "leases"):
        (folder / kind).mkdir(exist_ok=True)
    path = folder / "sessions" / f"{name}.json"
    path.write_text(json.dumps({"kind": "session", "version": 1, **entries, **changes}))
    (folder / "leases" / f"{STAGE}.json").write_text(json.dumps({"kind": "lease", "version": 1, "session": name}))
    return path


def test_the_lease_of_a_killed_process_is_free_immediately(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, store.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, store.session() as own:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        holder = own.holder(STAGE)
        assert holder is not None
        assert (holder.session, holder.process) == (name, process.pid)
        assert str(process.pid) in str(holder)
        assert not own.acquire(STAGE)
        assert [other.session for other in own.others()] == [name]
        process.send_signal(signal.SIGKILL)
        while start_of(process.pid) is not None:  # its exit status is not read: it becomes a zombie
            time.sleep(0.01)
        assert own.holder(STAGE) is None
        assert own.others() == []
        assert own.acquire(STAGE)


def test_a_dead_machine_is_noticed_by_its_counter(store: Store, clock: Clock) -> None:
    write_session(store, "b1")
    with store.session() as own:
        assert not own.acquire(STAGE)
        clock.now += 59.9
        assert not own.acquire(STAGE)
        assert own.holder(STAGE) is not None
        clock.now += 0.2
        assert own.holder(STAGE) is None
        assert own.others() == []
        assert own.acquire(STAGE)


def test_a_counter_that_changes_keeps_the_lease(store: Store, clock: Clock) -> None:
    write_session(store, "b1")
    with store.session() as own:
        for counter in range(4, 10):
            assert not own.acquire(STAGE)
            clock.now += 50
            write_session(store, "b1", counter=counter)
            assert not own.acquire(STAGE)
        clock.now += 61
        assert own.acquire(STAGE)


def test_a_session_that_lives_again_is_respected(store: Store, clock: Clock) -> None:
    write_session(store, "b1")
    with store.session() as own:
        assert own.others() != []
        clock.now += 61
        assert own.others() == []
        write_session(store, "b1", counter=4)
        assert not own.acquire(STAGE)


@pytest.mark.parametrize("jump", [-(10.0**9), 10.0**9])
def test_clocks_that_jump_have_no_influence(
    store: Store, monkeypatch: pytest.MonkeyPatch, clock: Clock, jump: float
) -> None:
    path = write_session(store, "b1")
    with store.session() as own:
        assert not own.acquire(STAGE)
        monkeypatch.setattr(time, "time", lambda: 1.5e9 + jump)  # ruff: ignore[shared-clock-mock] - the clock of the machine jumps
        os.utime(path, (1.5e9 - jump, 1.5e9 - jump))
        assert not own.acquire(STAGE)
        clock.now += 61
        assert own.acquire(STAGE)


@pytest.mark.skipif(not machine(), reason="the system does not identify processes by their start")
def test_a_process_number_that_is_used_again_is_not_the_process(store: Store) -> None:
    started = start_of(os.getpid())
    write_session(store, "b1", machine=machine(), process=os.getpid(), started=started)
    with store.session() as own:
        assert not own.acquire(STAGE)
        write_session(store, "b1", machine=machine(), process=os.getpid(), started=f"{started}1")
        assert own.acquire(STAGE)


def test_the_counter_increases(store: Store) -> None:
    with store.session(interval=0.01) as own, store.session() as other:
        first = own.id
        counters: set[int] = set()
        deadline = time.monotonic() + 20
        while len(counters) < 3 and time.monotonic() < deadline:
            counters.add(next(holder.counter for holder in other.others() if holder.session == first))
    assert len(counters) == 3


def test_a_closed_session_leaves_no_files_and_no_thread(store: Store) -> None:
    with store.session() as own:
        assert own.acquire(STAGE)
        assert any(thread.name == "rebasin-session" for thread in threading.enumerate())
    assert not any(thread.name == "rebasin-session" for thread in threading.enumerate())
    for folder in ("sessions", "leases"):
        assert list((Path(store.address) / folder).iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"kind": "session", "version": 2}', '{"kind": "session", "version": 1}']
)
def test_damaged_sessions_are_dead(store: Store, content: str) -> None:
    write_session(store, "b1").write_text(content)
    with store.session() as own:
        assert own.others() == []
        assert own.acquire(STAGE)


@pytest.mark.parametrize("name", ["", "../../x", 5, None])
def test_damaged_leases_are_free(store: Store, name: object) -> None:
    write_session(store, "b1")
    text = json.dumps({"kind": "lease", "version": 1, "session": name})
    (Path(store.address) / "leases" / f"{STAGE}.json").write_text(text)
    with store.session() as own:
        assert own.holder(STAGE) is None
        assert own.acquire(STAGE)


def test_a_lost_lease_is_not_released(store: Store) -> None:
    with store.session() as slow, store.session() as fast:
        assert slow.acquire(STAGE)
        store.storage.delete(f"sessions/{slow.id}.json")  # it was suspended, and another process removed its file
        assert fast.acquire(STAGE)
        slow.release(STAGE)
        holder = slow.holder(STAGE)
        assert holder is not None
        assert holder.session == fast.id


def test_a_full_disk_does_not_stop_a_session(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = threading.Semaphore(0)

    def full(*_: object, **__: object) -> None:
        beats.release()
        message = "no space"
        raise StorageError(message)

    with store.session(interval=0.01) as own:
        monkeypatch.setattr(LocalStorage, "put", full)
        assert beats.acquire(timeout=20)
        assert beats.acquire(timeout=20)
        monkeypatch.undo()
        assert own.acquire(STAGE)


def test_invalid_identities_are_errors(store: Store) -> None:
    with store.session() as own:
        for method in (own.acquire, own.release, own.holder):
            with pytest.raises(InvalidInputError):
                method("../x")


def test_dead_sessions_and_their_leases_are_garbage(store: Store) -> None:
    path = write_session(store, "b1")
    with store.session() as own:
        assert own.acquire("b" * 64)
        assert collect_garbage(store).sessions == ()
        os.utime(path, (0, 0))
        found = collect_garbage(store, dry_run=True)
        assert (found.sessions, found.leases) == (("b1",), (STAGE,))
        assert collect_garbage(store) == found
        assert own.acquire(STAGE)
        assert isinstance(own, Session)
        assert collect_garbage(store, grace=0).sessions == ()
