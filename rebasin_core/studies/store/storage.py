"""Interface of file systems that can hold a store."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rebasin_core.studies.store.artifact import StoredFile


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing.

    Attributes:
        key: Its key.
        size: Size in bytes.
        modified: Time of the last change in seconds since 1970, by the clock of the file system.
    """

    key: str
    size: int
    modified: float

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


def temporary_name() -> str:
    """Return the name of a new temporary file, which `is_unfinished` recognizes."""
    return f".rebasin-{secrets.token_hex(8)}.part"


class Storage(ABC):
    """Named objects on a file system: the few operations that a store requires.

    Keys are relative paths with forward slashes, constructed by this package, so they cannot leave the folder.

    Laws:
        A reader sees an object completely or not at all: also if a writer is killed, or several write the same key.
        Reading a key that does not exist returns None; deleting it has no effect. Other failures are a StorageError.

    Attributes:
        address: Address of the folder.
    """

    address: str

    @abstractmethod
    def get(self, key: str, limit: int) -> bytes | None:
        """Return the content of an object.

        Args:
            key: Its key.
            limit: Maximum size in bytes.

        Returns:
            The content; None if there is no such object.

        Raises:
            FileFormatError: If the object is larger, or not a regular file.
            StorageError: If it cannot be read.
        """

    @abstractmethod
    def put(self, key: str, content: bytes, *, durable: bool = True) -> None:
        """Write an object completely, and replace an existing one.

        Args:
            key: Its key.
            content: Its content.
            durable: Whether to wait until the content would survive a power failure.

        Raises:
            StorageError: If it cannot be written.
        """

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless it exists; not durable.

        Args:
            key: Its key.
            content: Its content.

        Returns:
            Whether it was written. Of several concurrent callers one should obtain True; file systems without such an
            operation may return True to more than one.

        Raises:
            StorageError: If it cannot be written.
        """

    @abstractmethod
    def put_blob(self, source: Path) -> StoredFile:
        """Store the content of a file under its digest.

        Args:
            source: Path of the file.

        Returns:
            The digest and the size.

        Raises:
            FileFormatError: If the source cannot be read.
            StorageError: If it cannot be written.
        """

    @abstractmethod
    def fetch_blob(self, file: StoredFile) -> Path:
        """Return the local path of a stored file with verified content.

        Args:
            file: Digest and size of the content.

        Returns:
            The path; the file must not be changed.

        Raises:
            FileFormatError: If the file is missing or its content differs.
            StorageError: If it cannot be read.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if there is no such object."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    @abstractmethod
    def delete_if_older(self, key: str, time: float) -> bool:
        """Delete an object unless it has been written, or used by `put_blob`, since a time.

        Args:
            key: Its key.
            time: Seconds since 1970, by the clock of the file system.

        Returns:
            Whether it was deleted.

        Raises:
            StorageError: If it cannot be deleted.
        """

    @abstractmethod
    def verify_blob(self, file: StoredFile) -> None:
        """Read a stored file completely, and raise if its content differs.

        Args:
            file: Digest and size of the content.

        Raises:
            FileFormatError: If the file is missing or its content differs.
            StorageError: If it cannot be read.
        """

    @abstractmethod
    def clock(self) -> float:
        """Return the time of the file system in seconds since 1970, to compare with `Entry.modified`."""

    @abstractmethod
    def keys(self, folder: str) -> Iterator[str]:
        """Yield the keys of all objects in a folder and its subfolders, in any order."""

    @abstractmethod
    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield all objects in a folder and its subfolders, in any order; the whole store for an empty name."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Return whether the folder does not exist or is empty."""

    @abstractmethod
    def scratch(self, name: str) -> Path:
        """Return a local folder for unfinished work, which is created if needed.

        Args:
            name: Its name.

        Returns:
            The path.
        """

    @abstractmethod
    def scratch_times(self) -> dict[str, float]:
        """Return the names of the folders of `scratch`, with the time of the last change of their files."""

    @abstractmethod
    def clear_scratch(self, name: str) -> None:
        """Remove a folder of `scratch`, if it exists."""

    @property
    def connections(self) -> int:
        """Number of objects to read concurrently."""
        return 1
