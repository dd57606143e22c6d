"""A store on a file system of `fsspec`, such as a bucket."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fsspec.core import url_to_fs
from typing_extensions import override

from rebasin_core.assignment.kernel_cache import user_folder
from rebasin_core.errors import FileFormatError, InvalidInputError, RebasinError, StorageError
from rebasin_core.studies.store.artifact import StoredFile
from rebasin_core.studies.store.blobs import VerifiedFiles
from rebasin_core.studies.store.layout import BLOBS, UNFINISHED, blob_key
from rebasin_core.studies.store.scratch import clear_local_scratch, local_scratch_times
from rebasin_core.studies.store.storage import Entry, Storage, temporary_name
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.files import replacing
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from fsspec import AbstractFileSystem

CACHE = "REBASIN_CACHE"
"""Environment variable: folder for copies of remote files and for unfinished work of remote stores."""

_CHUNK = 2**22
_CONNECTIONS = 32
# File systems whose writes become visible when they are complete. On the others, files are renamed.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss"}
_TIMES = ("mtime", "modified", "LastModified", "last_modified", "updated", "created")


@final
class RemoteStorage(Storage):
    """A folder of a file system of `fsspec`.

    Objects are read as they are at that time: listings are not cached. Files are copied to a local cache and verified.

    Args:
        address: Address of the folder.

    Raises:
        InvalidInputError: If the address is invalid, or requires a package that is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._root = _opened(address)
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._is_object_store = bool(names & _OBJECT_STORES)
        self._cache = _cache_folder(self.address)
        self._verified = VerifiedFiles()

    @property
    @override
    def connections(self) -> int:
        return _CONNECTIONS

    @override
    def get(self, key: str, limit: int) -> bytes | None:
        path = self._path(key)
        with self._access(path):
            try:
                content = self._read(path, limit)
            except FileNotFoundError:
                return None
        if len(content) > limit:
            message = f"cannot read {self._shown(path)}: it has more than {limit} bytes"
            raise FileFormatError(message)
        return content

    @override
    def put(self, key: str, content: bytes, *, durable: bool = True) -> None:
        with self._writing(key) as path:
            self._files.pipe_file(path, content)

    @override
    def create(self, key: str, content: bytes) -> bool:
        path = self._path(key)
        with self._access(path):
            self._require_folder(path)
            try:
                self._files.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    @override
    def put_blob(self, source: Path) -> StoredFile:
        file = StoredFile(digest_of_file(source), regular_size(source))
        # Also if it exists: the stored one may be damaged, and its new time protects it from `collect_garbage`.
        with self._writing(blob_key(file.sha256)) as path:
            self._files.put_file(str(source), path)
        return file

    @override
    def fetch_blob(self, file: StoredFile) -> Path:
        target = self._cache / BLOBS / file.sha256[:2] / file.sha256
        try:
            self._verified.require(target, file)
        except FileFormatError:  # not in the cache, or damaged
            self._download(file, target)
            self._verified.require(target, file)
        return target

    @override
    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._access(path):
            self._files.invalidate_cache()
            try:
                return int(self._files.info(path)["size"] or 0)
            except FileNotFoundError:
                return None

    @override
    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._access(path):
            try:
                self._files.rm_file(path)
            except FileNotFoundError:
                return

    @override
    def delete_if_older(self, key: str, time: float) -> bool:
        path = self._path(key)
        with self._access(path):
            self._files.invalidate_cache()
            try:
                if _modified(self._files.info(path)) >= time:
                    return False
                self._files.rm_file(path)
            except FileNotFoundError:
                return False
        return True

    @override
    def verify_blob(self, file: StoredFile) -> None:
        path = self._path(blob_key(file.sha256))
        with self._access(path):
            self._require_content(path, file, Path(os.devnull))

    @override
    def clock(self) -> float:
        key = f"{UNFINISHED}/{temporary_name()}"
        self.put(key, b"x")
        path = self._path(key)
        with self._access(path):
            self._files.invalidate_cache()
            found = _modified(self._files.info(path))
            self._files.rm_file(path)
        return found

    @override
    def keys(self, folder: str) -> Iterator[str]:
        yield from self._found(folder)

    @override
    def entries(self, folder: str) -> Iterator[Entry]:
        for key, about in self._found(folder).items():
            yield Entry(key, int(about.get("size") or 0), _modified(about))

    @override
    def is_empty(self) -> bool:
        with self._access(self._root):
            self._files.invalidate_cache()
            try:
                return not [path for path in self._files.ls(self._root, detail=False) if path.strip("/") != self._root]
            except FileNotFoundError:
                return True

    @override
    def scratch(self, name: str) -> Path:
        folder = self._cache / UNFINISHED / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot write {shown(folder)}: {reason(error)}. {CACHE} selects another folder"
            raise StorageError(message) from error
        return folder

    @override
    def scratch_times(self) -> dict[str, float]:
        return local_scratch_times(self._cache / UNFINISHED)

    @override
    def clear_scratch(self, name: str) -> None:
        clear_local_scratch(self._cache / UNFINISHED, name)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _shown(self, path: str) -> str:
        return shown(Path(self._files.unstrip_protocol(path)))

    def _read(self, path: str, limit: int) -> bytes:
        try:
            content: bytes = self._files.cat_file(path, start=0, end=limit + 1)
        except FileNotFoundError:
            raise
        except OSError:  # empty objects have no range
            if self._files.info(path)["size"] == 0:
                return b""
            raise
        return content

    def _found(self, folder: str) -> dict[str, dict[str, Any]]:
        path = self._path(folder).rstrip("/")
        with self._access(path):
            self._files.invalidate_cache()
            try:
                found = self._files.find(path, detail=True)
            except FileNotFoundError:
                return {}
        prefix = f"{path.strip('/')}/"
        base = f"{folder}/" if folder else ""
        return {f"{base}{name.strip('/').removeprefix(prefix)}": about for name, about in found.items()}

    def _download(self, file: StoredFile, target: Path) -> None:
        path = self._path(blob_key(file.sha256))
        with replacing(target) as temporary, self._access(path):
            self._require_content(path, file, temporary)

    def _require_content(self, path: str, file: StoredFile, copy: Path) -> None:
        """Copy a file, and raise if its content differs."""
        if self._copied(path, copy, file.size) != (file.sha256, file.size):
            message = f"the checksum of {self._shown(path)} does not match its content"
            raise FileFormatError(message)

    def _copied(self, path: str, target: Path, limit: int) -> tuple[str, int]:
        """Copy at most ``limit`` bytes and one more; return their digest and number."""
        found = hashlib.sha256()
        size = 0
        try:
            opened = self._files.open(path, "rb")
        except FileNotFoundError as error:
            message = f"{self._shown(path)} does not exist"
            raise FileFormatError(message) from error
        with opened as source, target.open("wb") as copy:
            while size <= limit and (chunk := source.read(min(_CHUNK, limit + 1 - size))):
                found.update(chunk)
                size += len(chunk)
                copy.write(chunk)
        return found.hexdigest(), size

    @contextmanager
    def _writing(self, key: str) -> Generator[str]:
        """Provide the path to write; on file systems other than object stores a temporary one, which is renamed."""
        path = self._path(key)
        with self._access(path):
            if self._is_object_store:
                yield path
                return
            self._require_folder(path)
            temporary = f"{path.rsplit('/', 1)[0]}/{temporary_name()}"
            try:
                yield temporary
                self._files.mv(temporary, path)
            finally:
                if self._files.exists(temporary):
                    self._files.rm_file(temporary)

    def _require_folder(self, path: str) -> None:
        if not self._is_object_store:
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)

    @contextmanager
    def _access(self, path: str) -> Generator[None]:
        """Raise failures of the file system as a StorageError."""
        try:
            yield
        except RebasinError:
            raise
        except Exception as error:
            message = (
                f"cannot access {self._shown(path)}: {reason(error)}. Check the address, the network and permissions"
            )
            raise StorageError(message) from error


def _opened(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of an address, and the path of the folder in it."""
    try:
        files, path = url_to_fs(address)
    except (ImportError, ValueError, TypeError, OSError, KeyError) as error:
        message = f"cannot open the store {shown(address)}: {reason(error)}"
        if isinstance(error, ImportError) and address.startswith("s3"):
            message += '; `pip install "rebasin-core[s3]"`'
        raise InvalidInputError(message) from error
    root = str(path).rstrip("/")
    if not root.strip("/"):
        message = f"expected an address with a folder or a bucket, such as 's3://bucket/folder', got {shown(address)}"
        raise InvalidInputError(message)
    return files, root


def _cache_folder(address: str) -> Path:
    chosen = os.environ.get(CACHE)
    base = Path(chosen) if chosen else user_folder() or Path(tempfile.gettempdir()) / "rebasin_core"
    return base / "stores" / hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()[:16]


def _modified(about: Mapping[str, Any]) -> float:
    """Return the time of the last change in a listing; 0 if the file system does not report it."""
    for name in _TIMES:
        match about.get(name):
            case datetime() as time:
                return time.timestamp()
            case bool():
                continue
            case int() | float() as seconds:
                return float(seconds)
    return 0.0
