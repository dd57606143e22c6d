"""Sessions and leases: processes that use one store avoid computing the same stage twice."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.studies.store.artifact import require_identity
from rebasin_core.studies.store.documents import document_text, read_document
from rebasin_core.studies.store.layout import SESSIONS, lease_key, session_in, session_key
from rebasin_core.studies.store.process import host_name, machine, start_of

if TYPE_CHECKING:
    from types import TracebackType

    from rebasin_core.studies.store.storage import Storage

INTERVAL = 5.0
"""Seconds between two increments of the counter of a session."""

PATIENCE = 60.0
"""Seconds without a change of its counter after which a session is regarded as dead."""

_SESSION, _LEASE = "session", "lease"


@final
@dataclass(frozen=True, slots=True)
class Holder:
    """A process that uses a store.

    Attributes:
        session: Identifier of its session.
        host: Name of its machine.
        process: Number of the process.
        machine: Identifier of the machine since its start; empty if unknown.
        started: Time when the process started, in the unit of its system; empty if unknown.
        counter: Counter that increases while the process runs.
    """

    session: str
    host: str
    process: int
    machine: str
    started: str
    counter: int

    @override
    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this machine that no longer runs; False if this is unknown."""
        if not self.machine or not self.started or self.machine != machine():
            return False
        return start_of(self.process) != self.started


@final
class Session:
    """Context manager of a process that computes stages of a store; holds leases on them.

    A lease informs other processes that a stage is being computed. It is free after its release, after the session is
    closed, or when the session is dead: its process was killed, or its counter has not changed for some time. That time
    is measured by the monotonic clock of the process that waits; clocks of machines are never compared. Leases only
    avoid work that is done twice. If two processes obtain the same lease, or a lease is lost, the stored artifacts are
    still correct.

    Args:
        storage: The file system of the store.
        interval: Seconds between two increments of the counter, positive.
        patience: Seconds without a change after which another session is regarded as dead, positive.
    """

    def __init__(self, storage: Storage, *, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        self.id = secrets.token_hex(16)
        self._storage = storage
        self._interval = interval
        self._patience = patience
        self._held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._holder = Holder(self.id, host_name(), os.getpid(), machine(), start_of(os.getpid()) or "", 0)

    def __enter__(self) -> Self:
        """Write the file of the session, and start to increment its counter."""
        self._write(0)
        self._thread = threading.Thread(target=self._beat, name="rebasin-session", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all leases and remove the file of the session."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(StorageError, FileFormatError):  # leases of a session without a file are free
            self._storage.delete(session_key(self.id))
            for identity in sorted(self._held):
                self.release(identity)

    def acquire(self, identity: str) -> bool:
        """Acquire the lease of a stage, if no other living session holds it.

        Args:
            identity: Identity of the stage.

        Returns:
            Whether this session holds the lease.

        Raises:
            StorageError: If the store cannot be read or written.
        """
        require_identity(identity)
        key = lease_key(identity)
        content = document_text(_LEASE, {"session": self.id})
        acquired = self._storage.create(key, content)
        if not acquired:
            found = self._session_of(identity)
            if found == self.id:
                return True
            if found is not None and self._living(found) is not None:
                return False
            # Another process may have replaced the lease of the dead session in the meantime.
            if self._session_of(identity) == found:
                self._storage.delete(key)
            acquired = self._storage.create(key, content)
        if acquired:
            self._held.add(identity)
        return acquired

    def release(self, identity: str) -> None:
        """Release a lease, if this session still holds it.

        Args:
            identity: Identity of the stage.

        Raises:
            StorageError: If the store cannot be read or written.
        """
        require_identity(identity)
        self._held.discard(identity)
        if self._session_of(identity) == self.id:
            self._storage.delete(lease_key(identity))

    def holder(self, identity: str) -> Holder | None:
        """Return the living process that holds the lease of a stage.

        Args:
            identity: Identity of the stage.

        Returns:
            The process; None if the lease is free, or its session is dead.

        Raises:
            StorageError: If the store cannot be read.
        """
        require_identity(identity)
        found = self._session_of(identity)
        return None if found is None else self._living(found)

    def others(self) -> list[Holder]:
        """Return the other living processes that use the store.

        Returns:
            The processes. A process that was killed on another machine is included until its counter has not changed
            for the time ``patience``.

        Raises:
            StorageError: If the store cannot be read.
        """
        sessions = sorted({session_in(key) for key in self._storage.keys(SESSIONS)} - {self.id})
        living = [self._living(session) for session in sessions]
        return [holder for holder in living if holder is not None]

    def _living(self, session: str) -> Holder | None:
        """Return the process of a session; None if it is dead."""
        if session == self.id:
            return self._holder
        holder = read_session(self._storage, session)
        if holder is None or holder.has_ended:
            self._seen.pop(session, None)
            return None
        now = monotonic()
        counter, since = self._seen.get(session, (None, now))
        if counter != holder.counter:
            self._seen[session] = (holder.counter, now)
        elif now - since >= self._patience:
            return None
        return holder

    def _session_of(self, identity: str) -> str | None:
        """Return the session that a lease names; None if there is no lease, or it is damaged."""
        return leased_session(self._storage, lease_key(identity))

    def _beat(self) -> None:
        counter = 0
        while not self._stopped.wait(self._interval):
            counter += 1
            # If it fails, for example because the disk is full, others will compute the stages, too.
            with suppress(StorageError):
                self._write(counter)

    def _write(self, counter: int) -> None:
        document = asdict(self._holder) | {"counter": counter}
        document.pop("session")
        self._storage.put(session_key(self.id), document_text(_SESSION, document), durable=False)


def read_session(storage: Storage, session: str) -> Holder | None:
    """Return the process of a session.

    Args:
        storage: The file system of the store.
        session: Identifier of the session.

    Returns:
        The process; None if the session has ended, or its file is damaged.
    """
    document = _record(storage, session_key(session), _SESSION)
    match document:
        case {
            "host": str(host),
            "process": int(process),
            "machine": str(where),
            "started": str(start),
            "counter": int(n),
        }:
            return Holder(session, host, process, where, start, n)
    return None


def leased_session(storage: Storage, key: str) -> str | None:
    """Return the session that holds a lease.

    Args:
        storage: The file system of the store.
        key: Key of the lease.

    Returns:
        Identifier of the session; None if there is no lease, or it is damaged.
    """
    match _record(storage, key, _LEASE):
        case {"session": str(session)} if session.isalnum():
            return session
    return None


def _record(storage: Storage, key: str, kind: str) -> dict[str, Any] | None:
    try:
        return read_document(storage, key, kind)
    except FileFormatError:
        return None
