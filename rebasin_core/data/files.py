"""Local data files, and their verified download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from rebasin_core.errors import DataError, FileFormatError, MissingDataError
from rebasin_core.tensors.bounds import MAX_DATA_BYTES
from rebasin_core.tensors.reading import read_bounded

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Published file.

    Attributes:
        name: Name of the file.
        url: Address of the file.
        md5: Published MD5 checksum, as hexadecimal digits.
    """

    name: str
    url: str
    md5: str


def find_file(root: Path, subfolders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first existing file among candidates.

    Args:
        root: Root folder.
        subfolders: Subfolders of the root to search, in order; ``.`` is the root.
        names: File names, in order of preference.

    Returns:
        The path, or None if no file exists.
    """
    candidates = (root / folder / name for folder in subfolders for name in names)
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def require_file(
    root: Path, subfolders: Sequence[str], names: Sequence[str], *, remote: RemoteFile | None, download: bool
) -> Path:
    """Return a local data file; download and verify it if it is missing and ``download`` is set.

    Args:
        root: Root folder.
        subfolders: Subfolders of the root to search, in order; a download is saved in the first.
        names: File names, in order of preference.
        remote: Published file; None if it cannot be downloaded.
        download: Whether to download a missing file.

    Returns:
        The path of an existing file. A downloaded file has the published checksum.

    Raises:
        MissingDataError: If the file is missing and is not downloaded, or the download fails.
    """
    local = find_file(root, subfolders, names)
    if local is not None:
        return local
    candidates = ", ".join(str(root / folder / names[0]) for folder in subfolders)
    if remote is None or not download:
        remedy = "set `root` to the folder that contains it" + ("" if remote is None else ", or `download: true`")
        message = f"no data file {names[0]!r}; looked for {candidates}. Please {remedy}"
        raise MissingDataError(message)
    try:
        import pooch  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "downloads require pooch; install it with: pip install 'rebasin-core[download]'"
        raise MissingDataError(message) from error
    try:
        path = pooch.retrieve(
            remote.url, known_hash=f"md5:{remote.md5}", path=root / subfolders[0], fname=remote.name, progressbar=True
        )
    except (OSError, ValueError) as error:
        message = f"cannot download {remote.url}: {error}. Save the file as {root / subfolders[0] / remote.name}"
        raise MissingDataError(message) from error
    return Path(path)


def read_bytes(path: Path) -> bytes:
    """Return the content of a data file.

    Args:
        path: An existing file.

    Returns:
        The content.

    Raises:
        DataError: If it cannot be read, is not a regular file, or is too large.
    """
    try:
        return read_bounded(path, MAX_DATA_BYTES)
    except FileFormatError as error:
        raise DataError(str(error)) from error
