"""Reading of untrusted files: regular files of limited size, and JSON of limited depth."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.arguments import require_path
from rebasin_core.tensors.bounds import MAX_DEPTH, MAX_JSON_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def regular_size(path: Path | str) -> int:
    """Return the size of a regular file, without opening it, which could block for a pipe.

    Args:
        path: Path of the file.

    Returns:
        The size in bytes.

    Raises:
        FileFormatError: If there is no such file, or it is a folder, a device, a pipe or a socket.
    """
    require_path(path)
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}"
        raise FileFormatError(message) from error
    if not stat.S_ISREG(found.st_mode):
        message = f"cannot read {shown(Path(path))}: it is {_kind(found.st_mode)}; expected a regular file"
        raise FileFormatError(message)
    return found.st_size


def irregular_kind(path: Path) -> str | None:
    """Return the type of an existing path that is not a regular file; links are followed.

    Args:
        path: The path.

    Returns:
        The type, such as ``a folder``; None for a regular file, and if there is no file or it is not accessible.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _kind(mode)


def read_bounded(path: Path | str, limit: int) -> bytes:
    """Return the content of a regular file of limited size.

    Args:
        path: Path of the file.
        limit: Maximum size in bytes.

    Returns:
        The content.

    Raises:
        FileFormatError: If the file cannot be read, is not a regular file, or is larger.
    """
    size = regular_size(path)
    try:
        with Path(path).open("rb") as handle:
            content = handle.read(limit + 1) if size <= limit else b""
    except OSError as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}"
        raise FileFormatError(message) from error
    if size > limit or len(content) > limit:
        message = f"cannot read {shown(Path(path))}: it has {max(size, len(content))} bytes, expected at most {limit}"
        raise FileFormatError(message)
    return content


def exists(path: Path) -> bool:
    """Return whether a path exists; False for invalid paths.

    Args:
        path: The path.

    Returns:
        Whether it exists; True for a dangling link.
    """
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL character
        return False


def is_same_file(first: Path, second: Path) -> bool:
    """Return whether two paths refer to the same file; links are followed.

    Args:
        first: A path.
        second: Another path.

    Returns:
        Whether they do; False if one of them does not exist.
    """
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def read_json(path: Path | str) -> Any:  # ruff: ignore[any-type] - JSON is any of its types
    """Read a JSON document.

    Args:
        path: Path of the file.

    Returns:
        The parsed document.

    Raises:
        FileFormatError: If the file is missing, too large, not JSON, or nested too deeply.
    """
    content = read_bounded(path, MAX_JSON_BYTES)
    try:
        return parse_json(content.decode("utf-8"))
    except ValueError as error:
        message = f"cannot read {shown(Path(path))}: {error}"
        raise FileFormatError(message) from error


def parse_json(text: str) -> Any:  # ruff: ignore[any-type] - JSON is any of its types
    """Return the value of a JSON text.

    Args:
        text: The text.

    Returns:
        The value.

    Raises:
        FileFormatError: If it is not JSON, has a duplicate key, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise FileFormatError(_TOO_DEEP) from error
    except ValueError as error:
        message = f"not JSON: {error}"
        raise FileFormatError(message) from error
    _require_shallow(value)
    return value


def read_record(path: Path | str, kind: str, version: int) -> dict[str, Any]:
    """Read a JSON record, and check its kind and version.

    Args:
        path: Path of the file.
        kind: Expected entry ``kind``.
        version: Expected entry ``version``.

    Returns:
        The record, without these two entries.

    Raises:
        FileFormatError: If the file is missing, damaged, of another kind, or in another version.
    """
    document = read_json(path)
    try:
        return checked_record(document, kind, version)
    except FileFormatError as error:
        message = f"{shown(Path(path))}: {error}"
        raise FileFormatError(message) from error


def checked_record(document: object, kind: str, version: int, *, unmarked: bool = False) -> dict[str, Any]:
    """Return the entries of a JSON record after checking its kind and version.

    Args:
        document: The parsed JSON.
        kind: Expected entry ``kind``.
        version: Expected entry ``version``.
        unmarked: Whether to accept a record without both entries, as earlier releases wrote.

    Returns:
        The record, without these two entries.

    Raises:
        FileFormatError: If it is not an object, of another kind, or of another version.
    """
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        message = f"expected a JSON object of kind {kind!r}, got {type(document).__name__}"
        raise FileFormatError(message)
    rest = {key: value for key, value in document.items() if key not in {"kind", "version"}}
    if unmarked and len(rest) == len(document):
        return rest
    if document.get("kind") != kind:
        message = f'expected a JSON object with "kind": "{kind}", got {shown(document.get("kind"))}'
        raise FileFormatError(message)
    if isinstance(document.get("version"), bool) or document.get("version") != version:
        raise FileFormatError(other_format(f"version {shown(document.get('version'))}", f"version {version}"))
    return rest


def other_format(found: str, expected: str) -> str:
    """Return a message about a file in a format that this release does not read.

    Args:
        found: The format of the file.
        expected: The format that this release reads.

    Returns:
        The message, with both formats and a remedy.
    """
    return (
        f"written in {found}, this release reads {expected}; install the release that wrote it, or write the file again"
    )


def shown(value: object, limit: int = 120) -> str:
    """Return a value formatted for messages: a path as a string, other values by their shortened `repr`.

    Args:
        value: Any value.
        limit: Maximum number of characters.

    Returns:
        One line.
    """
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)} entries"
    text = str(value) if isinstance(value, Path) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00").replace("\n", "\\n")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def reason(error: BaseException) -> str:
    """Return the reason why a file could not be read or written.

    Args:
        error: The exception of the operating system or of a library.

    Returns:
        The reason, in one line.
    """
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return " ".join(str(text).split())


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        message = f"duplicate key {shown(duplicate)}"
        raise ValueError(message)
    return found


def _require_shallow(value: object) -> None:
    """Raise if a value is nested too deeply for recursive functions; this one is not recursive."""
    level: Sequence[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items_of(outer)]
        if not level:
            return
    raise FileFormatError(_TOO_DEEP)


def _items_of(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "not a regular file")
