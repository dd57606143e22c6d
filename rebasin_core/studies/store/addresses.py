"""Addresses of stores: local folders and file systems of `fsspec`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.studies.store.local import LocalStorage
from rebasin_core.tensors.arguments import require_path
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from rebasin_core.studies.store.storage import Storage

_LOCAL = ("file://", "local://")


def open_storage(address: str | Path) -> Storage:
    """Return the file system at an address, without writing to it.

    Args:
        address: A folder, or an address of `fsspec`.

    Returns:
        The file system.

    Raises:
        InvalidInputError: If the address is invalid, or requires a package that is not installed.
    """
    require_path(address)
    text = str(address)
    for prefix in _LOCAL:
        text = text.removeprefix(prefix)
    if "://" in text and "\0" not in text:
        from rebasin_core.studies.store.remote import RemoteStorage  # ruff: ignore[import-outside-top-level] - fsspec is needed here only

        return RemoteStorage(text)
    if not text or "\0" in text:
        message = f"expected a folder or an address such as 's3://bucket/folder' as a store, got {shown(address)}"
        raise InvalidInputError(message)
    return LocalStorage(Path(text))
