"""Garbage collection: removal of artifacts that no run or study refers to, and of leftovers of killed processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.errors import FileFormatError
from rebasin_core.studies.store.artifact import is_digest
from rebasin_core.studies.store.inspection import read_all
from rebasin_core.studies.store.layout import (
    BLOBS,
    FAILURES,
    LEASES,
    LOGS,
    RECORDS,
    SESSIONS,
    blob_key,
    failure_key,
    lease_key,
    listed_digest,
    log_key,
    record_key,
    session_in,
    session_key,
)
from rebasin_core.studies.store.session import leased_session, read_session
from rebasin_core.tensors.files import is_unfinished

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from rebasin_core.studies.store.storage import Entry
    from rebasin_core.studies.store.store import Store

GRACE = 86400.0
"""Seconds for which `collect_garbage` keeps everything that was written or used recently."""

# Sessions of a process that was suspended or cannot write for a few minutes are kept even without a grace period.
_SESSION_GRACE = 600.0


@final
@dataclass(frozen=True, slots=True)
class Garbage:
    """Objects that `collect_garbage` removed, or would remove.

    Attributes:
        artifacts: Identities of artifacts that no root refers to.
        files: Digests of files that belong to no remaining artifact.
        leases: Identities of stages whose lease belongs to a dead session.
        sessions: Dead sessions.
        unfinished: Identities of stages with unfinished work that no root needs.
        leftovers: Keys of temporary files, and of logs and failures of stages that no root refers to.
        size: Total size in bytes, without unfinished work.
    """

    artifacts: tuple[str, ...]
    files: tuple[str, ...]
    leases: tuple[str, ...]
    sessions: tuple[str, ...]
    unfinished: tuple[str, ...]
    leftovers: tuple[str, ...]
    size: int


def collect_garbage(store: Store, *, grace: float = GRACE, dry_run: bool = False) -> Garbage:
    """Remove artifacts that no root refers to, files of no artifact, and leftovers of killed processes.

    Other processes may use the store. Everything that was written or used during the last ``grace`` seconds is kept,
    by the clock of the file system: artifacts may be written before their root, and files before their artifact. On a
    local folder, a file that a writer reuses at the same moment is kept. On a remote file system it can be removed
    then; the artifact is damaged and is computed again.

    Args:
        store: The store.
        grace: Seconds, at least 0; 0 is safe only while no other process writes to the store.
        dry_run: Whether to only list the objects.

    Returns:
        The removed objects.

    Raises:
        FileFormatError: If a root is damaged. No object is removed then.
        StorageError: If the store cannot be read or written.
    """
    now = store.storage.clock()
    collector = _Collector(store, now - grace, dry_run=dry_run)
    artifacts = collector.artifacts()
    files = collector.files(frozenset(artifacts))
    sessions = collector.sessions(now - max(grace, _SESSION_GRACE))
    leases = collector.leases(frozenset(sessions))
    unfinished = collector.unfinished()
    leftovers = collector.leftovers(frozenset(artifacts))
    return Garbage(artifacts, files, leases, sessions, unfinished, leftovers, collector.size)


@final
class _Collector:
    """One collection.

    Args:
        store: The store.
        before: Objects that were changed at this time or later are kept.
        dry_run: Whether to only list the objects.
    """

    def __init__(self, store: Store, before: float, *, dry_run: bool) -> None:
        self._store = store
        self._storage = store.storage
        self._before = before
        self._dry_run = dry_run
        self._needed: set[str] = set().union(*store.roots().values())
        self._entries: dict[str, list[Entry]] = {}
        for entry in self._storage.entries(""):
            self._entries.setdefault(entry.key.partition("/")[0], []).append(entry)
        self._records = self._by_digest(RECORDS, record_key)
        self.size = 0

    def artifacts(self) -> tuple[str, ...]:
        """Remove artifacts, and return their identities."""
        found = sorted(self._records.keys() - self._needed)
        # Studies may have started while the store was listed.
        needed: set[str] = set().union(*self._store.roots().values()) if found else set()
        return tuple(identity for identity in found if identity not in needed and self._remove(self._records[identity]))

    def files(self, removed: AbstractSet[str]) -> tuple[str, ...]:
        """Remove files of no artifact, and return their digests."""
        used: set[str] = set()
        for _, found in read_all(self._store, self._records.keys() - removed):
            if not isinstance(found, FileFormatError):
                used.update(file.sha256 for file in found.files.values())
        blobs = self._by_digest(BLOBS, blob_key)
        return tuple(digest for digest in sorted(blobs.keys() - used) if self._remove(blobs[digest]))

    def sessions(self, before: float) -> tuple[str, ...]:
        """Remove sessions of processes that no longer run, and return them."""
        found = {session_in(entry.key): entry for entry in self._entries.get(SESSIONS, ())}
        dead: list[str] = []
        for session, entry in sorted(found.items()):
            if entry.key != session_key(session) or is_unfinished(session):
                continue
            holder = read_session(self._storage, session)
            # A living process writes its file every few seconds.
            is_dead = entry.modified < before or (holder is not None and holder.has_ended)
            if is_dead and self._delete(entry):
                dead.append(session)
        return tuple(dead)

    def leases(self, dead: AbstractSet[str]) -> tuple[str, ...]:
        """Remove leases of dead sessions, and return the identities of their stages."""
        found: list[str] = []
        for identity, entry in sorted(self._by_digest(LEASES, lease_key).items()):
            session = leased_session(self._storage, entry.key)
            is_free = session is None or session in dead or read_session(self._storage, session) is None
            if is_free and self._delete(entry):
                found.append(identity)
        return tuple(found)

    def unfinished(self) -> tuple[str, ...]:
        """Remove unfinished work of stages that are finished or that no root refers to, and return their identities."""
        found: list[str] = []
        for identity, changed in sorted(self._storage.scratch_times().items()):
            is_needed = identity in self._needed and identity not in self._records
            if is_digest(identity) and changed < self._before and not is_needed:
                found.append(identity)
                if not self._dry_run:
                    self._storage.clear_scratch(identity)
        return tuple(found)

    def leftovers(self, removed: AbstractSet[str]) -> tuple[str, ...]:
        """Remove temporary files, and logs and failures of stages without root and artifact, and return their keys."""
        known = self._needed | (self._records.keys() - removed)
        notes = (self._by_digest(LOGS, log_key), self._by_digest(FAILURES, failure_key))
        found = [entry for entries in notes for identity, entry in entries.items() if identity not in known]
        found += [entry for entries in self._entries.values() for entry in entries if is_unfinished(entry.name)]
        return tuple(sorted(entry.key for entry in found if self._remove(entry)))

    def _by_digest(self, folder: str, key_of: Callable[[str], str]) -> dict[str, Entry]:
        found = ((listed_digest(entry.key, key_of), entry) for entry in self._entries.get(folder, ()))
        return {digest: entry for digest, entry in found if digest is not None}

    def _remove(self, entry: Entry) -> bool:
        """Remove an object unless it is recent; return whether it was removed, or would be."""
        if entry.modified >= self._before:
            return False
        if not self._dry_run and not self._storage.delete_if_older(entry.key, self._before):
            return False
        self.size += entry.size
        return True

    def _delete(self, entry: Entry) -> bool:
        if not self._dry_run:
            self._storage.delete(entry.key)
        self.size += entry.size
        return True
