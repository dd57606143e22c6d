"""Files of tensors: safetensors with a JSON document, written to a temporary name and renamed."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rebasin_core.errors import FileFormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

FORMAT = "rebasin_core/1"
_ENTRY = "rebasin_core"
PARTIAL = ".part"
"""In the name of every file that is not finished."""


@contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """Give a temporary file beside ``path`` that takes its place when the block ends well.

    Args:
        path: The file to write; its folder is made if needed.

    Yields:
        The temporary path. If the block fails it is removed and ``path`` stays as it was.

    Raises:
        StorageError: If the folder or the file cannot be written.
    """
    target = Path(path)
    temporary: Path | None = None
    try:  # ruff: ignore[too-many-statements-in-try-clause] - each of them may find the disk full
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=f"{PARTIAL}{target.suffix}"
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files that only their owner can read; a result is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        temporary = None
    except OSError as error:
        message = f"cannot write {target}: {error.strerror or error}. Check the space and the permissions of its folder"
        raise StorageError(message) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


def read_json(path: Path | str) -> Any:  # ruff: ignore[any-type] - JSON is any of its types
    """Read a JSON document.

    Args:
        path: The file.

    Returns:
        The parsed document.

    Raises:
        FileFormatError: If it is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        raise FileFormatError(message) from error


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
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            # Copies: sums over memory that is not aligned, as tensors in files are, differ in the last digit.
            names = handle.keys()
            tensors = {name: handle.get_tensor(name).clone() for name in names}
        header = json.loads(metadata.get(_ENTRY, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        message = f"cannot read {path}: {error}. Expected a safetensors file"
        raise FileFormatError(message) from error
    if kind is not None and (header.get("kind") != kind or header.get("format") != FORMAT):
        found = f"{header.get('kind', 'unknown')!r} in format {header.get('format', 'unknown')!r}"
        message = f"{path}: expected a file of kind {kind!r} in format {FORMAT!r}, got {found}"
        raise FileFormatError(message)
    return tensors, {**header.get("document", {}), "kind": header.get("kind")}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
