"""Keys of the objects in a store: relative paths with forward slashes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from rebasin_core.errors import InvalidInputError
from rebasin_core.studies.store.artifact import is_digest
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = "store.json"
RECORDS, BLOBS, LOGS, FAILURES = "records", "blobs", "logs", "failures"
ROOTS, SESSIONS, LEASES, UNFINISHED = "roots", "sessions", "leases", "unfinished"
FOLDERS = (RECORDS, BLOBS, LOGS, FAILURES, ROOTS, SESSIONS, LEASES, UNFINISHED)
_MAX_NAME = 200
_JSON, _TEXT = ".json", ".txt"


def record_key(identity: str) -> str:
    """Return the key of an artifact's record."""
    return f"{RECORDS}/{identity[:2]}/{identity}{_JSON}"


def blob_key(sha256: str) -> str:
    """Return the key of the file with this content."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def log_key(identity: str) -> str:
    """Return the key of a stage's log."""
    return f"{LOGS}/{identity[:2]}/{identity}{_TEXT}"


def failure_key(identity: str) -> str:
    """Return the key of the record of a failed stage."""
    return f"{FAILURES}/{identity}{_JSON}"


def lease_key(identity: str) -> str:
    """Return the key of the lease of a stage."""
    return f"{LEASES}/{identity}{_JSON}"


def session_key(session: str) -> str:
    """Return the key of a session."""
    return f"{SESSIONS}/{session}{_JSON}"


def root_key(name: str) -> str:
    """Return the key of a root; characters other than letters, digits, ``_``, ``-``, ``.`` and ``~`` are escaped.

    Args:
        name: Name of the root.

    Returns:
        The key.

    Raises:
        InvalidInputError: If the name is empty or too long.
    """
    encoded = quote(name, safe="", errors="surrogatepass")
    if not encoded or len(encoded) > _MAX_NAME:
        message = f"expected the name of a root with 1 to {_MAX_NAME} characters after URL encoding, got {shown(name)}"
        raise InvalidInputError(message)
    # A leading dot would make a hidden file, or a path outside the folder.
    return f"{ROOTS}/{encoded if encoded[0] != '.' else f'%2E{encoded[1:]}'}{_JSON}"


def root_name(key: str) -> str:
    """Return the name of the root that is stored under a key."""
    return unquote(_stem(key, _JSON))


def identity_in(key: str) -> str | None:
    """Return the identity or digest in the last part of a key; None for keys of other objects."""
    name = key.rsplit("/", 1)[-1]
    stem = name.removesuffix(_JSON).removesuffix(_TEXT)
    return stem if is_digest(stem) else None


def session_in(key: str) -> str:
    """Return the session that is stored under a key."""
    return _stem(key, _JSON)


def _stem(key: str, suffix: str) -> str:
    return key.rsplit("/", 1)[-1].removesuffix(suffix)


def listed_digest(key: str, key_of: Callable[[str], str]) -> str | None:
    """Return the digest of an object in a listing; None for objects that this program did not name.

    Args:
        key: Key of the object.
        key_of: Function of this module that constructs such keys from digests.

    Returns:
        The digest.
    """
    digest = identity_in(key)
    return digest if digest is not None and key == key_of(digest) else None


def root_of(kind: str, user: str) -> str:
    """Return the name of the root of a run or study.

    Args:
        kind: ``run`` or ``study``.
        user: The path of its output folder or file, or another name.

    Returns:
        A file name; different for different users.
    """
    return f"{kind}-{hashlib.sha256(user.encode()).hexdigest()[:16]}"
