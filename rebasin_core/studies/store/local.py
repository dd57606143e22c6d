"""A store in a local folder."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.studies.store.artifact import StoredFile
from rebasin_core.studies.store.blobs import VerifiedFiles
from rebasin_core.studies.store.layout import BLOBS, UNFINISHED, blob_key
from rebasin_core.studies.store.scratch import clear_local_scratch, local_scratch_times
from rebasin_core.studies.store.storage import Entry, Storage, temporary_name
from rebasin_core.tensors.files import is_unfinished
from rebasin_core.tensors.reading import read_bounded, reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_CHUNK = 2**20
_DEFAULT_MODE, _READ_ONLY = 0o666, 0o444  # reduced by the umask of the process


@final
class LocalStorage(Storage):
    """A local folder, or one of a network file system with atomic renames, such as NFS.

    Args:
        root: The folder; created when something is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.address = str(self._root)
        self._verified = VerifiedFiles()

    @override
    def get(self, key: str, limit: int) -> bytes | None:
        path = self._root / key
        try:
            return read_bounded(path, limit)
        except FileFormatError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            if isinstance(error.__cause__, OSError):
                raise StorageError(str(error)) from error
            raise

    @override
    def put(self, key: str, content: bytes, *, durable: bool = True) -> None:
        target = self._root / key
        with _writing(target), _temporary(target.parent, _DEFAULT_MODE) as (path, handle):
            handle.write(content)
            _close(handle, durable=durable)
            path.replace(target)

    @override
    def create(self, key: str, content: bytes) -> bool:
        target = self._root / key
        with _writing(target):
            if os.path.lexists(target):
                return False
            with _temporary(target.parent, _DEFAULT_MODE) as (path, handle):
                handle.write(content)
                handle.close()
                return _link(path, target, content)

    @override
    def put_blob(self, source: Path) -> StoredFile:
        regular_size(source)
        folder = self._root / BLOBS
        with _writing(folder), _temporary(folder, _READ_ONLY) as (path, handle):
            file = _copied(source, handle)
            target = self._root / blob_key(file.sha256)
            if self._is_stored(target, file):
                return file
            _close(handle, durable=True)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        return file

    @override
    def fetch_blob(self, file: StoredFile) -> Path:
        path = self._root / blob_key(file.sha256)
        self._verified.require(path, file)
        return path

    @override
    def size(self, key: str) -> int | None:
        try:
            return (self._root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(self._root / key, error) from error

    @override
    def delete(self, key: str) -> None:
        path = self._root / key
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            message = f"cannot delete {shown(path)}: {reason(error)}. Check the permissions of its folder"
            raise StorageError(message) from error

    @override
    def delete_if_older(self, key: str, time: float) -> bool:
        path = self._root / key
        aside = path.with_name(temporary_name())
        with _writing(path):
            try:
                if path.stat().st_mtime >= time:
                    return False
                # Renamed first: a writer that marks the file as used after this comparison does not find it any more,
                # and writes it again; one that marked it before is noticed by the second comparison.
                path.rename(aside)
            except FileNotFoundError:
                return False
            if aside.stat().st_mtime >= time:
                aside.replace(path)
                return False
            aside.unlink()
        return True

    @override
    def verify_blob(self, file: StoredFile) -> None:
        VerifiedFiles().require(self._root / blob_key(file.sha256), file)

    @override
    def clock(self) -> float:
        with _writing(self._root), _temporary(self._root, _DEFAULT_MODE) as (path, _):
            return path.stat().st_mtime

    @override
    def keys(self, folder: str) -> Iterator[str]:
        for entry in _scan(self._root / folder):
            if entry.is_dir(follow_symlinks=False):
                prefix = f"{folder}/{entry.name}/"
                yield from (prefix + inner.name for inner in _scan(Path(entry.path)))
            else:
                yield f"{folder}/{entry.name}"

    @override
    def entries(self, folder: str) -> Iterator[Entry]:
        for entry in _scan(self._root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self.entries(key)
            else:
                with suppress(FileNotFoundError):  # deleted since it was listed
                    status = entry.stat(follow_symlinks=False)
                    yield Entry(key, status.st_size, status.st_mtime)

    @override
    def is_empty(self) -> bool:
        return all(is_unfinished(entry.name) for entry in _scan(self._root))

    @override
    def scratch(self, name: str) -> Path:
        folder = self._root / UNFINISHED / name
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @override
    def scratch_times(self) -> dict[str, float]:
        return local_scratch_times(self._root / UNFINISHED)

    @override
    def clear_scratch(self, name: str) -> None:
        clear_local_scratch(self._root / UNFINISHED, name)

    def _is_stored(self, target: Path, file: StoredFile) -> bool:
        """Return whether a blob exists with the right content; mark it as used, for `collect_garbage`."""
        try:
            # First, since a concurrent `gc` compares this time.
            os.utime(target)
            self._verified.require(target, file)
        except (OSError, FileFormatError):  # missing or damaged: written again
            return False
        return True


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; none if it does not exist."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: Exception) -> StorageError:
    return StorageError(f"cannot read {shown(path)}: {reason(error)}. Check the permissions of its folder")


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError | FileFormatError):
            raise
        message = f"cannot write {shown(path)}: {reason(error)}. Check the free space and the folder's permissions"
        raise StorageError(message) from error


@contextmanager
def _temporary(folder: Path, mode: int) -> Generator[tuple[Path, BinaryIO]]:
    """Provide a new temporary file, which is removed on exit unless it was renamed."""
    path = folder / temporary_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, mode)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield path, handle
    finally:
        path.unlink(missing_ok=True)


def _close(handle: BinaryIO, *, durable: bool) -> None:
    """Close a file; flush it to the disk before it is renamed.

    Folders are not flushed, which would double the cost: if a machine stops before their entries are on the disk, an
    artifact is missing or its record names a missing file. Both are detected, and the stage is computed again.
    """
    handle.flush()
    if durable:
        os.fsync(handle.fileno())
    handle.close()


def _link(path: Path, target: Path, content: bytes) -> bool:
    """Give a file a second name unless that name exists; return whether it was free."""
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: readers may see the file before its content
        try:
            with target.open("xb") as handle:
                handle.write(content)
        except FileExistsError:
            return False
    return True


def _copied(source: Path, target: BinaryIO) -> StoredFile:
    """Copy a file and return the digest of the bytes that were written."""
    found = hashlib.sha256()
    size = 0
    with _opened(source) as handle:
        while chunk := handle.read(_CHUNK):
            found.update(chunk)
            size += len(chunk)
            target.write(chunk)
    return StoredFile(found.hexdigest(), size)


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        message = f"cannot read {shown(source)}: {reason(error)}"
        raise FileFormatError(message) from error
