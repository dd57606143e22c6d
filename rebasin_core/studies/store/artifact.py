"""Artifacts: the stored results of stages, and the JSON records that describe them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.tensors.bounds import MAX_JSON_BYTES
from rebasin_core.tensors.digests import digest_of_json, ordered_json
from rebasin_core.tensors.reading import checked_record, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND, VERSION = "artifact", 1
MAX_FILE_BYTES = 2**50
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\w[\w .+=,@()\-]{0,149}")
_MAX_PARTS = 8
_KEYS = {"stage", "documents", "files", "about", "checksum"}


@final
@dataclass(frozen=True, slots=True)
class StoredFile:
    """Reference to a file of an artifact by its content.

    Attributes:
        sha256: Digest of the content, as 64 hexadecimal digits.
        size: Size in bytes.
    """

    sha256: str
    size: int


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """The stored result of a stage.

    Attributes:
        id: Identity of the stage: the SHA-256 of the canonical JSON of ``stage``.
        stage: Identity document of the stage, as plain JSON.
        documents: Small JSON results by name.
        files: Files by name, such as ``posterior.safetensors``.
        about: Circumstances that do not change the result: seconds, threads, device, host, versions.
    """

    id: str
    stage: Mapping[str, Any]
    documents: Mapping[str, Any]
    files: Mapping[str, StoredFile]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the stage, the documents and the files; equal for equal results."""
        return digest_of_json({"stage": self.stage, "documents": self.documents, "files": _plain_files(self.files)})

    @property
    def kind(self) -> str:
        """Kind of the stage, such as ``train``."""
        return str(self.stage.get("kind", "unknown"))

    @property
    def size(self) -> int:
        """Total size of the files, in bytes."""
        return sum(file.size for file in self.files.values())


def is_digest(text: object) -> bool:
    """Return whether a value is a SHA-256 in hexadecimal digits.

    Args:
        text: Any value.

    Returns:
        Whether it consists of 64 lowercase hexadecimal digits.
    """
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def require_identity(identity: object) -> None:
    """Raise if a value is not the identity of a stage.

    Args:
        identity: The value.

    Raises:
        InvalidInputError: If it does not consist of 64 hexadecimal digits.
    """
    if not is_digest(identity):
        message = f"expected the identity of a stage as 64 lowercase hexadecimal digits, got {shown(identity)}"
        raise InvalidInputError(message)


def require_names(names: Mapping[str, object]) -> None:
    """Raise if names of files are unsuitable for file names.

    Args:
        names: Names with any values.

    Raises:
        InvalidInputError: If a name is not a relative path of parts that start with a letter, digit or underscore.
    """
    for name in names:
        if not _is_file_name(name):
            message = (
                f"expected names of files such as 'posterior.safetensors' or 'curves/test.json', got {shown(name)}; "
                "each part starts with a letter, a digit or an underscore"
            )
            raise InvalidInputError(message)


def record_text(artifact: Artifact) -> bytes:
    """Return the record of an artifact.

    Args:
        artifact: The artifact.

    Returns:
        JSON with a checksum. Keys keep their order, which is that of curves and scores in reports; digests ignore it.

    Raises:
        InvalidInputError: If a document cannot be represented in JSON, or the record is too large or too deep.
    """
    entries = {
        "stage": artifact.stage,
        "documents": artifact.documents,
        "files": _plain_files(artifact.files),
        "about": artifact.about,
    }
    record = {"kind": KIND, "version": VERSION, **entries, "checksum": digest_of_json(entries)}
    content = ordered_json(record).encode()
    if len(content) > MAX_JSON_BYTES:
        message = (
            f"the record of the {artifact.kind} stage {artifact.id[:12]} has {len(content)} bytes, expected at most "
            f"{MAX_JSON_BYTES}; store large results as files"
        )
        raise InvalidInputError(message)
    return content


def parsed_record(content: bytes, identity: str) -> Artifact:
    """Return the artifact that a record describes, after checking the record.

    Args:
        content: Content of the record.
        identity: Expected identity.

    Returns:
        The artifact.

    Raises:
        FileFormatError: If the record is damaged, of another format, or of another stage.
    """
    try:
        document = parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"its record is not UTF-8 text: {error.reason}"
        raise FileFormatError(message) from error
    entries = checked_record(document, KIND, VERSION)
    if set(entries) != _KEYS:
        message = f"its record has the keys {sorted(entries)}, expected {sorted(_KEYS)}"
        raise FileFormatError(message)
    checksum = entries.pop("checksum")
    if checksum != _digest_of_parsed(entries):
        message = "the checksum of its record does not match the content"
        raise FileFormatError(message)
    for name in ("stage", "documents", "files", "about"):
        if not isinstance(entries[name], dict):
            message = f"expected {name!r} in its record to be a JSON object, got {shown(entries[name])}"
            raise FileFormatError(message)
    if digest_of_json(entries["stage"]) != identity:
        message = "its record describes another stage"
        raise FileFormatError(message)
    entries["files"] = {name: _parsed_file(name, value) for name, value in entries["files"].items()}
    return Artifact(identity, **entries)


def _digest_of_parsed(entries: Mapping[str, Any]) -> str:
    """Return the digest of parsed entries; Python's parser accepts NaN and infinities, which records never contain."""
    try:
        return digest_of_json(entries)
    except InvalidInputError as error:
        message = f"its record is not strict JSON: {error}"
        raise FileFormatError(message) from error


def _parsed_file(name: str, value: object) -> StoredFile:
    if not isinstance(value, dict) or set(value) != {"sha256", "size"}:
        message = f"expected `sha256` and `size` of the file {shown(name)}, got {shown(value)}"
        raise FileFormatError(message)
    digest, size = value["sha256"], value["size"]
    valid_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_FILE_BYTES
    if not _is_file_name(name) or not is_digest(digest) or not valid_size:
        message = f"the entry of the file {shown(name)} in its record is invalid: {shown(digest)}, {shown(size)}"
        raise FileFormatError(message)
    return StoredFile(digest, size)


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str):
        return False
    parts = name.split("/")
    return len(parts) <= _MAX_PARTS and all(_PART.fullmatch(part) and not part.endswith((" ", ".")) for part in parts)


def _plain_files(files: Mapping[str, StoredFile]) -> dict[str, Any]:
    return {name: {"sha256": file.sha256, "size": file.size} for name, file in files.items()}
