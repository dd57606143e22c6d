"""Notes on stages in a store: logs, failures, and folders of unfinished work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rebasin_core.errors import FileFormatError
from rebasin_core.studies.store.artifact import require_identity
from rebasin_core.studies.store.documents import document_text, read_document
from rebasin_core.studies.store.layout import FAILURES, failure_key, identity_in, log_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rebasin_core.studies.store.storage import Storage

_FAILURE = "failure"
_MAX_LOG_BYTES = 8 * 2**20


class AbstractStageNotes(ABC):
    """The part of a store that describes stages without a result: none of it determines an artifact."""

    storage: Storage

    @abstractmethod
    def prepare(self) -> None:
        """Write the header of the store, unless it exists.

        Raises:
            FileFormatError: If it is a store of another version.
            StorageError: If the folder contains other files, or cannot be written.
        """

    def write_log(self, identity: str, text: str) -> None:
        """Store the log of a stage; of a long log, the last 8 MiB.

        Args:
            identity: Identity of the stage.
            text: The log.

        Raises:
            StorageError: If the store cannot be written.
        """
        require_identity(identity)
        self.prepare()
        content = text.encode(errors="replace")[-_MAX_LOG_BYTES:]
        self.storage.put(log_key(identity), content, durable=False)

    def read_log(self, identity: str) -> str | None:
        """Return the log of a stage.

        Args:
            identity: Identity of the stage.

        Returns:
            The log; None if there is none.

        Raises:
            StorageError: If the store cannot be read.
        """
        require_identity(identity)
        content = self.storage.get(log_key(identity), _MAX_LOG_BYTES)
        return None if content is None else content.decode(errors="replace")

    def write_failure(self, identity: str, document: Mapping[str, Any]) -> None:
        """Record that a stage failed.

        Args:
            identity: Identity of the stage.
            document: Description of the failure, as JSON.

        Raises:
            StorageError: If the store cannot be written.
        """
        require_identity(identity)
        self.prepare()
        self.storage.put(failure_key(identity), document_text(_FAILURE, {"failure": document}), durable=False)

    def read_failures(self) -> dict[str, Any]:
        """Return the recorded failures.

        Returns:
            Descriptions by identity of the stage; damaged ones are omitted.

        Raises:
            StorageError: If the store cannot be read.
        """
        found: dict[str, Any] = {}
        for key in sorted(self.storage.keys(FAILURES)):
            identity = identity_in(key)
            if identity is not None:
                with suppress(FileFormatError, KeyError):
                    found[identity] = (read_document(self.storage, key, _FAILURE) or {})["failure"]
        return found

    def clear_failure(self, identity: str) -> None:
        """Remove the record of a failure, if there is one.

        Args:
            identity: Identity of the stage.

        Raises:
            StorageError: If the store cannot be written.
        """
        require_identity(identity)
        self.storage.delete(failure_key(identity))

    def scratch(self, identity: str) -> Path:
        """Return a local folder for the unfinished work of a stage, such as the state of a training.

        Args:
            identity: Identity of the stage.

        Returns:
            The folder, which exists. It is part of the store if that is a local folder, and otherwise of the user's
            cache.

        Raises:
            StorageError: If it cannot be created.
        """
        require_identity(identity)
        self.prepare()
        return self.storage.scratch(identity)

    def clear_scratch(self, identity: str) -> None:
        """Remove the folder of `scratch`, if it exists.

        Args:
            identity: Identity of the stage.

        Raises:
            StorageError: If it cannot be removed.
        """
        require_identity(identity)
        self.storage.clear_scratch(identity)
