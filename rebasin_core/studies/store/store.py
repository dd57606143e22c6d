"""Stores of artifacts, addressed by the identities of stages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.errors import (
    DamagedArtifactError,
    FileFormatError,
    InvalidInputError,
    MissingArtifactError,
    StorageError,
)
from rebasin_core.studies.store.addresses import open_storage
from rebasin_core.studies.store.artifact import (
    Artifact,
    is_digest,
    parsed_record,
    record_text,
    require_identity,
    require_names,
)
from rebasin_core.studies.store.documents import document_text, read_document
from rebasin_core.studies.store.layout import (
    HEADER,
    RECORDS,
    ROOTS,
    listed_digest,
    record_key,
    root_key,
    root_name,
)
from rebasin_core.studies.store.notes import AbstractStageNotes
from rebasin_core.studies.store.session import INTERVAL, PATIENCE, Session
from rebasin_core.tensors.bounds import MAX_JSON_BYTES
from rebasin_core.tensors.digests import digest_of_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rebasin_core.studies.store.storage import Storage

_STORE, _ROOT = "store", "root"


@final
class Store(AbstractStageNotes):
    """Artifacts by the identity of their stage, in a folder or on any file system of `fsspec`.

    Many processes on many machines may use one store. An artifact is written completely or not at all, and two
    processes that write the same artifact do no harm. Everything that is read is verified by checksums. There are no
    locks; `session` provides leases, which avoid that two processes compute the same stage.

    Attributes:
        address: The folder or address.

    Args:
        storage: The file system; use `Store.open`.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._is_ready = False

    @classmethod
    def open(cls, address: str | Path) -> Store:
        """Open a store without writing to it.

        Args:
            address: A folder, or an address such as ``s3://bucket/folder`` of a file system that `fsspec` supports.

        Returns:
            The store; it may not exist yet.

        Raises:
            FileFormatError: If the folder contains a store of another version.
            InvalidInputError: If the address is invalid, or requires a package that is not installed.
            StorageError: If the address is not accessible.
        """
        store = cls(open_storage(address))
        store._has_header()
        return store

    @property
    def address(self) -> str:
        """The folder or address."""
        return self.storage.address

    @override
    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return Store.open, (self.address,)

    @override
    def __repr__(self) -> str:
        return f"Store.open({self.address!r})"

    def exists(self) -> bool:
        """Return whether the store has been written.

        Returns:
            Whether it has a header.

        Raises:
            StorageError: If the address is not accessible.
        """
        return self._has_header()

    def ids(self) -> set[str]:
        """Return the identities of all artifacts.

        Returns:
            The identities, from one listing; records are not read.

        Raises:
            StorageError: If the store cannot be read.
        """
        found = (listed_digest(key, record_key) for key in self.storage.keys(RECORDS))
        return {identity for identity in found if identity is not None}

    def has(self, identity: str) -> bool:
        """Return whether the store has an artifact; it is not verified.

        Args:
            identity: Identity of the stage.

        Returns:
            Whether its record exists.

        Raises:
            StorageError: If the store cannot be read.
        """
        require_identity(identity)
        return self.storage.size(record_key(identity)) is not None

    def read(self, identity: str) -> Artifact:
        """Read and verify the record of an artifact; `fetch` verifies its files.

        Args:
            identity: Identity of the stage.

        Returns:
            The artifact.

        Raises:
            MissingArtifactError: If the store has no such artifact.
            DamagedArtifactError: If its record is damaged.
            StorageError: If the store cannot be read.
        """
        require_identity(identity)
        try:
            content = self.storage.get(record_key(identity), MAX_JSON_BYTES)
            if content is not None:
                return parsed_record(content, identity)
        except FileFormatError as error:
            raise self._damaged(identity, str(error)) from error
        message = f"no artifact {identity} in the store {self.address}; run the study that computes it"
        raise MissingArtifactError(message, identity)

    def read_many(self, identities: Iterable[str]) -> dict[str, Artifact]:
        """Read and verify the records of several artifacts, concurrently if the store is remote.

        Args:
            identities: Identities of the stages.

        Returns:
            The artifacts by identity, in the given order. Those that are missing or damaged are omitted; `read` reports
            the reason.

        Raises:
            StorageError: If the store cannot be read.
        """
        wanted = list(dict.fromkeys(identities))
        connections = min(self.storage.connections, len(wanted))
        if connections <= 1:
            found = [self._read_intact(identity) for identity in wanted]
        else:
            with ThreadPoolExecutor(connections) as pool:
                found = list(pool.map(self._read_intact, wanted))
        return {artifact.id: artifact for artifact in found if artifact is not None}

    def write(
        self,
        stage: Mapping[str, Any],
        documents: Mapping[str, Any],
        files: Mapping[str, Path],
        about: Mapping[str, Any],
    ) -> Artifact:
        """Store the result of a stage: first the files, then the record. Readers see a complete artifact.

        Args:
            stage: Identity document of the stage.
            documents: Small JSON results by name.
            files: Paths of local files by name, which are copied.
            about: Circumstances that do not change the result.

        Returns:
            The stored artifact. An artifact of the same identity is replaced.

        Raises:
            FileFormatError: If a file cannot be read.
            InvalidInputError: If a document is not JSON or is nested too deeply, or the name of a file is invalid.
            StorageError: If the store cannot be written; no artifact is written then.
        """
        require_names(files)
        identity = digest_of_json(stage)
        # Checked before anything is written.
        self._require_readable(Artifact(identity, stage, documents, {}, about))
        self.prepare()
        stored = {name: self.storage.put_blob(Path(path)) for name, path in sorted(files.items())}
        content = record_text(Artifact(identity, stage, documents, stored, about))
        artifact = parsed_record(content, identity)
        self.storage.put(record_key(identity), content)
        return artifact

    def fetch(self, artifact: Artifact, name: str) -> Path:
        """Return the local path of a file of an artifact, after verifying its checksum.

        Args:
            artifact: The artifact.
            name: Name of the file.

        Returns:
            The path of the stored file, or of a cached copy. The file must not be changed.

        Raises:
            InvalidInputError: If the artifact has no such file.
            DamagedArtifactError: If the file is damaged or missing.
            StorageError: If the store cannot be read.
        """
        if name not in artifact.files:
            message = (
                f"the {artifact.kind} artifact {artifact.id[:12]} has no file {name!r}, only {sorted(artifact.files)}"
            )
            raise InvalidInputError(message)
        try:
            return self.storage.fetch_blob(artifact.files[name])
        except FileFormatError as error:
            raise self._damaged(artifact.id, f"{name}: {error}") from error

    def remove(self, identity: str) -> None:
        """Remove an artifact, if it exists. `collect_garbage` removes its files later, since artifacts share them.

        Args:
            identity: Identity of the stage.

        Raises:
            StorageError: If the store cannot be written.
        """
        require_identity(identity)
        self.storage.delete(record_key(identity))

    def write_root(self, name: str, identities: Iterable[str]) -> None:
        """Record the artifacts that a run or study refers to, which `collect_garbage` keeps. They may not exist yet.

        Args:
            name: Name of the root. An existing root of this name is replaced.
            identities: Identities of the stages.

        Raises:
            StorageError: If the store cannot be written.
        """
        listed = sorted(set(identities))
        for identity in listed:
            require_identity(identity)
        self.prepare()
        self.storage.put(root_key(name), document_text(_ROOT, {"artifacts": listed}))

    def roots(self) -> dict[str, set[str]]:
        """Return the artifacts that runs and studies refer to.

        Returns:
            Identities by name of the root.

        Raises:
            FileFormatError: If a root is damaged.
            StorageError: If the store cannot be read.
        """
        found: dict[str, set[str]] = {}
        for key in sorted(self.storage.keys(ROOTS)):
            record = read_document(self.storage, key, _ROOT) if key.endswith(".json") else None
            if record is not None:
                found[root_name(key)] = _listed(key, record)
        return found

    def remove_root(self, name: str) -> None:
        """Remove a root, if it exists; `collect_garbage` then removes artifacts that no other root refers to.

        Args:
            name: Name of the root.

        Raises:
            StorageError: If the store cannot be written.
        """
        self.storage.delete(root_key(name))

    def session(self, *, interval: float = INTERVAL, patience: float = PATIENCE) -> Session:
        """Return a context manager that holds leases on stages while this process computes them.

        Args:
            interval: Seconds between two signs of life, positive.
            patience: Seconds without a sign of life after which another session is regarded as dead.

        Returns:
            The session.

        Raises:
            StorageError: If the store cannot be written.
        """
        self.prepare()
        return Session(self.storage, interval=interval, patience=patience)

    @override
    def prepare(self) -> None:
        if self._is_ready:
            return
        # The header is read twice, since another process may have written it in the meantime.
        if not self._has_header() and not self.storage.is_empty() and not self._has_header():
            message = f"{self.address} contains other files but no {HEADER}; choose a new or empty folder as a store"
            raise StorageError(message)
        self.storage.create(HEADER, document_text(_STORE, {}))
        self._is_ready = True

    def _has_header(self) -> bool:
        """Return whether the store exists; raise if it has another version."""
        return read_document(self.storage, HEADER, _STORE) is not None

    @staticmethod
    def _require_readable(artifact: Artifact) -> None:
        try:
            parsed_record(record_text(artifact), artifact.id)
        except FileFormatError as error:
            message = f"the result of the {artifact.kind} stage cannot be stored: {error}"
            raise InvalidInputError(message) from error

    def _read_intact(self, identity: str) -> Artifact | None:
        try:
            return self.read(identity)
        except (MissingArtifactError, DamagedArtifactError):
            return None

    def _damaged(self, identity: str, why: str) -> DamagedArtifactError:
        message = (
            f"the artifact {identity} in the store {self.address} is damaged: {why}. `rebasin store verify "
            "--remove` removes damaged results, and the same study then computes them again"
        )
        return DamagedArtifactError(message, identity)


def _listed(key: str, record: Mapping[str, Any]) -> set[str]:
    artifacts = record.get("artifacts")
    if not isinstance(artifacts, list) or not all(is_digest(identity) for identity in artifacts):
        message = f"{key} is damaged: expected a list of identities; run its study again, or delete the file"
        raise FileFormatError(message)
    return set(artifacts)
