"""Files of tensors: safetensors with a JSON document, written to a temporary name and renamed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.tensors.kinds import require_path
from rebasin_core.tensors.reading import irregular_kind, other_format, parse_json, reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

FORMAT = "rebasin_core/1"
_ENTRY = "rebasin_core"
_UNFINISHED = re.compile(r"\.rebasin-\w+\.part(\.\w+)?")
_LONGEST_SUFFIX = 16
OF_DAMAGED_TENSORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What torch raises for tensors of names, shapes and dtypes that do not belong together, or that it does not have."""


@contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """Give a temporary file beside ``path`` that takes its place when the block ends well.

    The content is on the disk before the name is, so that a machine that stops at any moment leaves the old file or the
    whole new one.

    Args:
        path: The file to write; its folder is made if needed.

    Yields:
        The temporary path. If the block fails it is removed and ``path`` stays as it was.

    Raises:
        StorageError: If the folder or the file cannot be written.
    """
    require_path(path)
    target = Path(path)
    temporary: Path | None = None
    try:  # ruff: ignore[too-many-statements-in-try-clause] - each of them may find the disk full
        temporary = _new_beside(target)
        yield temporary
        _flush(temporary)
        # mkstemp makes files that only their owner can read; a result is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        temporary = None
        _flush_folder(target.parent)
    except OSError as error:
        message = f"cannot write {shown(target)}: {reason(error)}. Check the space and the permissions of its folder"
        raise StorageError(message) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Return whether a file name is one that `replacing` gives to a file that is being written.

    Args:
        name: A file name.

    Returns:
        Whether it is; no other program is expected to choose such names.
    """
    return _UNFINISHED.fullmatch(name) is not None


def require_writable(path: Path | str) -> None:
    """Raise if a file cannot be written at a path, so that this is known before the work; nothing is written.

    Args:
        path: The file.

    Raises:
        StorageError: If the path is that of a folder, or its folder cannot be made or written into.
    """
    require_path(path)
    problem = _obstacle(Path(path))
    if problem is not None:
        message = f"cannot write {shown(Path(path))}: {problem}. Choose another path"
        raise StorageError(message)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file as a whole or not at all.

    Args:
        path: The file; replaced if it exists.
        content: What it shall hold.

    Raises:
        StorageError: If it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, document: object) -> None:
    """Write a JSON document as a whole or not at all.

    Args:
        path: The file; replaced if it exists.
        document: Anything that JSON can hold.

    Raises:
        StorageError: If it cannot be written.
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], *, kind: str, document: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document into one safetensors file, as a whole or not at all.

    Args:
        path: The file; replaced if it exists.
        tensors: By name.
        kind: What the file holds; `read_tensors` asks for it.
        document: Kept in the file's metadata.

    Raises:
        StorageError: If it cannot be written.
    """
    # One entry, since safetensors writes several in a random order, and equal runs shall give equal bytes.
    metadata = {_ENTRY: json.dumps({"format": FORMAT, "kind": kind, "document": document})}
    ready: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        # The format holds no shared memory: what stands under two names is written twice.
        whole = tensor.detach().cpu().contiguous()
        ready[name] = whole.clone() if whole.data_ptr() in places else whole
        places.add(whole.data_ptr())
    write_bytes(path, save(ready, metadata=metadata))


def read_tensors(path: Path | str, *, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the document of a file; nothing in the file is executed.

    Args:
        path: A safetensors file.
        kind: What it must hold; None takes any safetensors file, also one from elsewhere.

    Returns:
        The tensors on the CPU, and the document (empty for a file from elsewhere).

    Raises:
        FileFormatError: If the file is missing, damaged or of another kind.
    """
    regular_size(path)
    require_path(path)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            # Copies: sums over memory that is not aligned, as tensors in files are, differ in the last digit.
            names = handle.keys()
            tensors = {name: handle.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError, *OF_DAMAGED_TENSORS) as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}. Expected a safetensors file"
        raise FileFormatError(message) from error
    try:
        return tensors, _document(metadata, kind)
    except FileFormatError as error:
        message = f"{shown(Path(path))}: {error}"
        raise FileFormatError(message) from error


def _document(metadata: Mapping[str, str], kind: str | None) -> dict[str, Any]:
    """Return the document in the metadata of a safetensors file, with its kind; raise unless it is as expected."""
    if _ENTRY not in metadata and kind is None:
        return {"kind": None}
    header = parse_json(metadata.get(_ENTRY, "{}"))
    if not isinstance(header, dict):
        message = f"the entry {_ENTRY!r} of its metadata is no JSON object"
        raise FileFormatError(message)
    found = header.get("kind")
    document = header.get("document", {})
    if not isinstance(found, str) or (kind is not None and found != kind):
        wanted = "one of the kinds that this package writes" if kind is None else f"kind {kind!r}"
        message = f"expected a file of {wanted}, got {'unknown' if found is None else shown(found)}"
        raise FileFormatError(message)
    if header.get("format") != FORMAT:
        raise FileFormatError(other_format(f"the format {shown(header.get('format'))}", f"the format {FORMAT!r}"))
    if not isinstance(document, dict):
        message = f"its document is no JSON object, got {shown(document)}"
        raise FileFormatError(message)
    return {**document, "kind": found}


def _new_beside(target: Path) -> Path:
    """Return a new empty file in the folder of a target, making the folder if needed."""
    # Not the name of the target, which may be as long as names can be; its suffix tells writers the format.
    suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
    try:
        _require_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rebasin-", suffix=f".part{suffix}")
    except ValueError as error:  # a NUL character in the path
        raise OSError(str(error)) from error
    os.close(handle)
    return Path(name)


def _require_replaceable(target: Path) -> None:
    """Raise if a path is that of something else than a file: a device would be replaced by a file for ever."""
    kind = irregular_kind(target)
    if kind is not None:
        message = f"it is {kind}"
        raise OSError(message)


def _obstacle(target: Path) -> str | None:
    """Return why a file cannot be written; None if nothing is seen that is in the way."""
    try:
        target.is_symlink()  # refuses names that are too long, and those with a NUL character
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        kind = irregular_kind(target)
    except (OSError, ValueError) as error:
        return reason(error)
    if kind is not None:
        return f"it is {kind}"
    try:
        # Permissions say less: not whether the file system can be written, and of what kind it is.
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder}: {reason(error)}"


def _flush(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _flush_folder(folder: Path) -> None:
    """Write the folder's entries to the disk, where the system can open a folder for that."""
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
