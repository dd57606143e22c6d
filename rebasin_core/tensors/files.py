"""Atomic writing of files, and safetensors files with a JSON document in their metadata."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.tensors.arguments import require_path
from rebasin_core.tensors.reading import irregular_kind, other_format, parse_json, reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

FORMAT = "rebasin_core/1"
_ENTRY = "rebasin_core"
_UNFINISHED = re.compile(r"\.rebasin-\w+\.part(\.\w+)?")
_MAX_SUFFIX_LENGTH = 16
# The folder of `without_flushing`.
_UNFLUSHED: ContextVar[Path | None] = ContextVar("unflushed", default=None)
OF_DAMAGED_TENSORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""Errors that PyTorch raises for inconsistent or unsupported names, shapes and dtypes of tensors."""


@contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """Provide a temporary file that replaces ``path`` when the block succeeds.

    The content is flushed to the disk before the file is renamed. If the machine stops at any moment, either the old
    file or the complete new one remains.

    Args:
        path: Path of the file to write; its folder is created if needed.

    Yields:
        Path of the temporary file. If the block fails, it is removed and ``path`` is not changed.

    Raises:
        StorageError: If the folder or the file cannot be written.
    """
    require_path(path)
    target = Path(path)
    temporary: Path | None = None
    try:  # ruff: ignore[too-many-statements-in-try-clause] - each may fail because the disk is full
        temporary = _new_temporary(target)
        yield temporary
        durable = _UNFLUSHED.get() != target.parent
        if durable:
            _flush(temporary)
        # mkstemp creates files that only their owner can read; results get the default permissions.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        temporary = None
        if durable:
            flush_folder(target.parent)
    except OSError as error:
        message = f"cannot write {shown(target)}: {reason(error)}. Check the free space and the folder's permissions"
        raise StorageError(message) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def without_flushing(folder: Path) -> Generator[None]:
    """Write files of one folder without flushing them to the disk: they are temporary, and will be copied or deleted.

    Flushing is the largest part of the time for writing a small file.

    Args:
        folder: The folder; files in its subfolders are flushed.

    Yields:
        Nothing.
    """
    token = _UNFLUSHED.set(folder)
    try:
        yield
    finally:
        _UNFLUSHED.reset(token)


def is_unfinished(name: str) -> bool:
    """Return whether a file name is that of a temporary file of `replacing`.

    Args:
        name: A file name.

    Returns:
        Whether it has the form of such names, which no other program is expected to use.
    """
    return _UNFINISHED.fullmatch(name) is not None


def require_writable(path: Path | str) -> None:
    """Raise if a file cannot be written at a path; nothing is written.

    Args:
        path: Path of the file.

    Raises:
        StorageError: If the path is a folder, or its folder cannot be created or is not writable.
    """
    require_path(path)
    problem = _obstacle(Path(path))
    if problem is not None:
        message = f"cannot write {shown(Path(path))}: {problem}. Choose another path"
        raise StorageError(message)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically.

    Args:
        path: Path of the file, which is replaced if it exists.
        content: Content of the file.

    Raises:
        StorageError: If it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, document: object) -> None:
    """Write a JSON document atomically.

    Args:
        path: Path of the file, which is replaced if it exists.
        document: A value that JSON can represent.

    Raises:
        StorageError: If it cannot be written.
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], *, kind: str, document: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document to a safetensors file, atomically.

    Args:
        path: Path of the file, which is replaced if it exists.
        tensors: Tensors by name.
        kind: Kind of the file, which `read_tensors` checks.
        document: Document in the file's metadata.

    Raises:
        StorageError: If it cannot be written.
    """
    # One entry, since safetensors writes several in a random order, and equal runs must write equal bytes.
    metadata = {_ENTRY: json.dumps({"format": FORMAT, "kind": kind, "document": document})}
    ready: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        # The format does not support shared memory: tensors with two names are written twice.
        whole = tensor.detach().cpu().contiguous()
        ready[name] = whole.clone() if whole.data_ptr() in addresses else whole
        addresses.add(whole.data_ptr())
    write_bytes(path, save(ready, metadata=metadata))


def read_tensors(path: Path | str, *, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the document of a safetensors file; no code in the file is executed.

    Args:
        path: Path of the file.
        kind: Expected kind of the file; None for any safetensors file, also of other programs.

    Returns:
        The tensors on the CPU, and the document with its ``kind`` (None for files of other programs).

    Raises:
        FileFormatError: If the file is missing, damaged or of another kind.
    """
    regular_size(path)
    require_path(path)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            # Copies, since tensors in files are not aligned, and sums over unaligned memory differ in the last digit.
            names = handle.keys()
            tensors = {name: handle.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError, *OF_DAMAGED_TENSORS) as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}. Expected a safetensors file"
        raise FileFormatError(message) from error
    try:
        return tensors, document_in(metadata, kind)
    except FileFormatError as error:
        message = f"{shown(Path(path))}: {error}"
        raise FileFormatError(message) from error


def document_of(path: Path | str) -> dict[str, Any]:
    """Return the document of a safetensors file without reading its tensors.

    Args:
        path: Path of the file.

    Returns:
        The document with its ``kind`` (None for files of other programs).

    Raises:
        FileFormatError: If the file is missing or damaged.
    """
    regular_size(path)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (OSError, SafetensorError, *OF_DAMAGED_TENSORS) as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}. Expected a safetensors file"
        raise FileFormatError(message) from error
    return document_in(metadata)


def document_in(metadata: Mapping[str, str], kind: str | None = None) -> dict[str, Any]:
    """Return the document in the metadata of a safetensors file, with its kind.

    Args:
        metadata: The metadata.
        kind: Expected kind of the file; None for any safetensors file, also of other programs.

    Returns:
        The document with its ``kind`` (None for files of other programs).

    Raises:
        FileFormatError: If it is damaged or of another kind.
    """
    if _ENTRY not in metadata and kind is None:
        return {"kind": None}
    header = parse_json(metadata.get(_ENTRY, "{}"))
    if not isinstance(header, dict):
        message = f"the entry {_ENTRY!r} of its metadata is not a JSON object"
        raise FileFormatError(message)
    found = header.get("kind")
    document = header.get("document", {})
    if not isinstance(found, str) or (kind is not None and found != kind):
        expected = "a kind that this package writes" if kind is None else f"kind {kind!r}"
        message = f"expected a file of {expected}, got {'unknown' if found is None else shown(found)}"
        raise FileFormatError(message)
    if header.get("format") != FORMAT:
        raise FileFormatError(other_format(f"the format {shown(header.get('format'))}", f"the format {FORMAT!r}"))
    if not isinstance(document, dict):
        message = f"its document is not a JSON object, got {shown(document)}"
        raise FileFormatError(message)
    return {**document, "kind": found}


def _new_temporary(target: Path) -> Path:
    """Return a new empty file in the folder of a target; create the folder if needed."""
    # With the suffix of the target, by which writers choose the format, but not its name, which may be too long.
    suffix = target.suffix if len(target.suffix) <= _MAX_SUFFIX_LENGTH else ""
    try:
        _require_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rebasin-", suffix=f".part{suffix}")
    except ValueError as error:  # a NUL character in the path
        raise OSError(str(error)) from error
    os.close(handle)
    return Path(name)


def _require_replaceable(target: Path) -> None:
    """Raise if a path exists and is not a regular file, since a device would be replaced permanently."""
    kind = irregular_kind(target)
    if kind is not None:
        message = f"it is {kind}"
        raise OSError(message)


def _obstacle(target: Path) -> str | None:
    """Return the reason why a file cannot be written; None if there is no apparent one."""
    try:
        target.is_symlink()  # raises for names that are too long or contain NUL
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        kind = irregular_kind(target)
    except (OSError, ValueError) as error:
        return reason(error)
    if kind is not None:
        return f"it is {kind}"
    try:
        # Permissions are not sufficient: the file system may be read-only, for example.
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder}: {reason(error)}"


def _flush(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, if the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
