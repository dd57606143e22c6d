"""Inspection of stores: list artifacts, sum up their sizes, and verify them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, final

from rebasin_core.errors import DamagedArtifactError, FileFormatError, MissingArtifactError
from rebasin_core.studies.store.artifact import StoredFile
from rebasin_core.studies.store.layout import BLOBS, FOLDERS, RECORDS, blob_key, listed_digest, record_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rebasin_core.studies.store.artifact import Artifact
    from rebasin_core.studies.store.storage import Entry
    from rebasin_core.studies.store.store import Store

DAMAGED = "damaged"
"""Kind of artifacts whose record is damaged, in listings."""

_BATCH = 1024
_MAX_HASHING_THREADS = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@final
@dataclass(frozen=True, slots=True)
class ListedArtifact:
    """A row of a listing.

    Attributes:
        id: Identity of the stage.
        kind: Kind of the stage; ``damaged`` if the record cannot be read.
        size: Total size of the files in bytes.
        written: Time when it was written, in seconds since 1970.
        seconds: Time that the computation took; None if unknown.
    """

    id: str
    kind: str
    size: int
    written: float
    seconds: float | None


@final
@dataclass(frozen=True, slots=True)
class Usage:
    """Number and size of artifacts.

    Attributes:
        artifacts: Number of artifacts.
        size: Size of their records and files in bytes. Files of equal content are stored and counted once.
    """

    artifacts: int
    size: int


@final
@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Sizes in a store.

    Attributes:
        kinds: Usage by kind of the stage. A file that artifacts of two kinds share is counted for both.
        total: Usage of all artifacts; each file is counted once.
        unreferenced: Size in bytes of files that belong to no artifact.
        other: Size in bytes of all other objects: logs, roots, temporary files, ...
    """

    kinds: Mapping[str, Usage]
    total: Usage
    unreferenced: int
    other: int


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """Result of `verify_store`.

    Attributes:
        artifacts: Number of artifacts.
        files: Number of stored files.
        size: Size of the stored files in bytes.
        damaged: Reasons by identity of the damaged artifacts: the record or a file is damaged or missing.
        damaged_files: Reasons by name of damaged files that belong to no artifact.
        damaged_roots: The reason why the roots cannot be read; empty if they can.
        unreferenced: Digests of files that belong to no artifact. They may belong to one that is being written.
    """

    artifacts: int
    files: int
    size: int
    damaged: Mapping[str, str]
    damaged_files: Mapping[str, str]
    damaged_roots: str
    unreferenced: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no damage; unreferenced files are no damage."""
        return not (self.damaged or self.damaged_files or self.damaged_roots)


def list_artifacts(store: Store, *, kind: str | None = None) -> list[ListedArtifact]:
    """List the artifacts of a store.

    Args:
        store: The store.
        kind: Kind of stages to list; None for all.

    Returns:
        The artifacts, the oldest first.

    Raises:
        StorageError: If the store cannot be read.
    """
    times = {key: entry.modified for key, entry in records_of(store).items()}
    rows = [_listed(identity, found, times[identity]) for identity, found in read_all(store, times)]
    chosen = (row for row in rows if kind is None or row.kind == kind)
    return sorted(chosen, key=lambda row: (row.written, row.id))


def disk_usage(store: Store) -> DiskUsage:
    """Sum up the sizes of artifacts by the kind of their stage.

    Args:
        store: The store.

    Returns:
        The sizes.

    Raises:
        StorageError: If the store cannot be read.
    """
    records, blobs = records_of(store), blobs_of(store)
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    files: dict[str, set[str]] = {}
    for identity, found in read_all(store, records):
        kind = DAMAGED if isinstance(found, FileFormatError) else found.kind
        counts[kind] = counts.get(kind, 0) + 1
        sizes[kind] = sizes.get(kind, 0) + records[identity].size
        if not isinstance(found, FileFormatError):
            files.setdefault(kind, set()).update(file.sha256 for file in found.files.values())
    used: set[str] = set().union(*files.values())

    def size_of(digests: Iterable[str]) -> int:
        return sum(blobs[digest].size for digest in digests if digest in blobs)

    kinds = {kind: Usage(counts[kind], sizes[kind] + size_of(files.get(kind, ()))) for kind in sorted(counts)}
    total = Usage(sum(counts.values()), sum(sizes.values()) + size_of(used))
    others = (folder for folder in FOLDERS if folder not in {RECORDS, BLOBS})
    rest = sum(entry.size for folder in others for entry in store.storage.entries(folder))
    return DiskUsage(kinds, total, size_of(blobs.keys() - used), rest)


def verify_store(store: Store) -> Verification:
    """Read everything in a store, and compare it with the checksums.

    Args:
        store: The store.

    Returns:
        The damage.

    Raises:
        StorageError: If the store cannot be read.
    """
    damaged: dict[str, str] = {}
    users: dict[StoredFile, list[str]] = {}
    records = records_of(store)
    for identity, found in read_all(store, records):
        if isinstance(found, FileFormatError):
            damaged[identity] = str(found.__cause__ or found)
            continue
        for file in set(found.files.values()):
            users.setdefault(file, []).append(identity)
    blobs = blobs_of(store)
    used = {file.sha256 for file in users}
    unused = [StoredFile(digest, entry.size) for digest, entry in blobs.items() if digest not in used]
    damaged_files: dict[str, str] = {}
    for file, why in _problems(store, [*users, *unused]):
        if file not in users:
            damaged_files[file.sha256] = why
        for identity in users.get(file, ()):
            if store.has(identity):  # not removed, with its files, since it was listed
                damaged[identity] = why
    size = sum(entry.size for entry in blobs.values())
    unreferenced = tuple(sorted(file.sha256 for file in unused))
    return Verification(len(records), len(blobs), size, damaged, damaged_files, _root_problem(store), unreferenced)


def read_all(store: Store, identities: Iterable[str]) -> Iterator[tuple[str, Artifact | DamagedArtifactError]]:
    """Yield artifacts, concurrently if the store is remote.

    Args:
        store: The store.
        identities: Identities of the stages.

    Yields:
        The identity, with the artifact, or with the error if it is damaged. Missing ones are omitted.
    """

    def read(identity: str) -> Artifact | DamagedArtifactError | None:
        try:
            return store.read(identity)
        except DamagedArtifactError as error:
            return error
        except MissingArtifactError:  # removed since it was listed
            return None

    for identity, found in _mapped(read, identities, store.storage.connections):
        if found is not None:
            yield identity, found


def _mapped(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[tuple[_Item, _Result]]:
    """Yield items with the values of a function, which threads compute, in batches to bound the memory."""
    if threads <= 1:
        yield from ((item, function(item)) for item in items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(remaining, _BATCH)):
            yield from zip(batch, pool.map(function, batch), strict=True)


def _problems(store: Store, files: Iterable[StoredFile]) -> Iterator[tuple[StoredFile, str]]:
    """Yield the damaged files with the reasons."""

    def problem(file: StoredFile) -> str | None:
        try:
            store.storage.verify_blob(file)
        except FileFormatError as error:
            return str(error)
        return None

    # Hashing releases the interpreter's lock.
    threads = max(store.storage.connections, min(_MAX_HASHING_THREADS, os.cpu_count() or 1))
    for file, why in _mapped(problem, files, threads):
        if why is not None:
            yield file, why


def _root_problem(store: Store) -> str:
    try:
        store.roots()
    except FileFormatError as error:
        return str(error)
    return ""


def _listed(identity: str, found: Artifact | DamagedArtifactError, written: float) -> ListedArtifact:
    if isinstance(found, DamagedArtifactError):
        return ListedArtifact(identity, DAMAGED, 0, written, None)
    seconds = found.about.get("seconds")
    known = float(seconds) if isinstance(seconds, int | float) else None
    return ListedArtifact(identity, found.kind, found.size, written, known)


def records_of(store: Store) -> dict[str, Entry]:
    """Return the records in a store.

    Args:
        store: The store.

    Returns:
        The objects by identity.
    """
    return _by_digest(store, RECORDS, record_key)


def blobs_of(store: Store) -> dict[str, Entry]:
    """Return the stored files.

    Args:
        store: The store.

    Returns:
        The objects by digest.
    """
    return _by_digest(store, BLOBS, blob_key)


def _by_digest(store: Store, folder: str, key_of: Callable[[str], str]) -> dict[str, Entry]:
    found = ((listed_digest(entry.key, key_of), entry) for entry in store.storage.entries(folder))
    return {digest: entry for digest, entry in found if digest is not None}
