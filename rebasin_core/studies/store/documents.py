"""Small JSON documents of a store, with their kind and version: the header, roots, failures, sessions and leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.bounds import MAX_JSON_BYTES
from rebasin_core.tensors.digests import canonical_json
from rebasin_core.tensors.reading import checked_record, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.studies.store.storage import Storage

_VERSION = 1


def document_text(kind: str, entries: Mapping[str, Any]) -> bytes:
    """Return the content of a document.

    Args:
        kind: Its kind.
        entries: Its entries.

    Returns:
        JSON in UTF-8.
    """
    return canonical_json({"kind": kind, "version": _VERSION, **entries}).encode()


def read_document(storage: Storage, key: str, kind: str) -> dict[str, Any] | None:
    """Return the entries of a document.

    Args:
        storage: The file system of the store.
        key: Key of the document.
        kind: Expected kind.

    Returns:
        The entries; None if there is no such document.

    Raises:
        FileFormatError: If it is damaged, of another kind, or of another version.
        StorageError: If it cannot be read.
    """
    content = storage.get(key, MAX_JSON_BYTES)
    if content is None:
        return None
    try:
        return checked_record(parse_json(content.decode("utf-8")), kind, _VERSION)
    except ValueError as error:
        message = f"{storage.address}: {key}: {error}"
        raise FileFormatError(message) from error
