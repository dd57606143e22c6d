"""Finding data files in a folder, or downloading and verifying them."""

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
    """A file that its publisher offers.

    Attributes:
        name: Its name.
        url: Where it is.
        md5: Its published checksum.
    """

    name: str
    url: str
    md5: str


def find_file(root: Path, subfolders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first of several files that exists.

    Args:
        root: The folder to look in.
        subfolders: Folders below it, in order; ``.`` for itself.
        names: File names, in order of preference.

    Returns:
        The path, or None.
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
    """Return a data file, downloading it if it is missing and that is allowed.

    Args:
        root: The folder to look in; downloads go into its first subfolder.
        subfolders: Folders below it, in order.
        names: File names, in order of preference.
        remote: Where its publisher offers it; None if nowhere.
        download: Whether it may be downloaded.

    Returns:
        The path of an existing file; a downloaded one has the published checksum.

    Raises:
        MissingDataError: If it is missing and may not, or cannot, be downloaded.
    """
    found = find_file(root, subfolders, names)
    if found is not None:
        return found
    places = ", ".join(str(root / folder / names[0]) for folder in subfolders)
    if remote is None or not download:
        way_out = "set `root` to the folder that holds it" + ("" if remote is None else ", or `download: true`")
        message = f"no data file {names[0]!r}; looked for {places}. Please {way_out}"
        raise MissingDataError(message)
    try:
        import pooch  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "downloading needs pooch; install it with: pip install 'rebasin-core[download]'"
        raise MissingDataError(message) from error
    try:
        path = pooch.retrieve(
            remote.url, known_hash=f"md5:{remote.md5}", path=root / subfolders[0], fname=remote.name, progressbar=True
        )
    except (OSError, ValueError) as error:
        message = f"cannot download {remote.url}: {error}. Put the file at {root / subfolders[0] / remote.name} by hand"
        raise MissingDataError(message) from error
    return Path(path)


def read_bytes(path: Path) -> bytes:
    """Return the content of a data file.

    Args:
        path: An existing file.

    Returns:
        Its bytes.

    Raises:
        DataError: If it cannot be read, is no regular file, or is too large.
    """
    try:
        return read_bounded(path, MAX_DATA_BYTES)
    except FileFormatError as error:
        raise DataError(str(error)) from error
