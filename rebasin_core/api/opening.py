"""Opening of checkpoints of any registered format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_core.checkpoints.base import HEAD_BYTES
from rebasin_core.checkpoints.folder_reader import FolderReader
from rebasin_core.checkpoints.requirements import require_network
from rebasin_core.checkpoints.unreadable import unreadable
from rebasin_core.errors import FileFormatError, PluginError
from rebasin_core.plugin.registry import default_registry
from rebasin_core.tensors.arguments import require_path
from rebasin_core.tensors.digests import digest_of_file, digest_of_json
from rebasin_core.tensors.reading import exists, irregular_kind, reason, regular_size, shown

if TYPE_CHECKING:
    from rebasin_core.checkpoints.base import CheckpointReader
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.plugin.registry import Registry

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_checkpoint(path: Path | str, *, entry: str | None = None, registry: Registry | None = None) -> Checkpoint:
    """Open the tensors of one network in a file or folder of any registered format.

    The format is determined from the content, not from the name. No code in the files is executed.

    Args:
        path: The file or folder.
        entry: Keys of the nested state dict to read, joined by dots, such as ``state_dict``; needed if a file contains
            several.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        The checkpoint. Its tensors are mapped to memory where the format allows it, and read when they are used.

    Raises:
        FileFormatError: If the path does not exist, is damaged, or has a format that no reader recognizes; or if it is
            an adapter (LoRA), or its weights are quantized.
        InvalidInputError: If there is no such entry, or several and none is given.
        PluginError: If several readers recognize the format.
    """
    found = read_any(path, entry=entry, registry=registry)
    require_network(found)
    return found


def read_any(path: Path | str, *, entry: str | None = None, registry: Registry | None = None) -> Checkpoint:
    """Open tensors in a file or folder of any registered format, also those of adapters and quantized weights.

    Args:
        path: The file or folder.
        entry: Keys of the nested state dict to read, joined by dots.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        The checkpoint.

    Raises:
        FileFormatError: If the path does not exist, is damaged, or has a format that no reader recognizes.
        InvalidInputError: If there is no such entry, or several and none is given.
        PluginError: If several readers recognize the format.
    """
    return reader_of(path, registry=registry).read(path, entry=entry)


def reader_of(path: Path | str, *, registry: Registry | None = None) -> CheckpointReader:
    """Return the reader that recognizes a file or folder.

    Args:
        path: The file or folder.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        The reader.

    Raises:
        FileFormatError: If the path does not exist, or has a format that no reader recognizes.
        PluginError: If several readers recognize the format.
    """
    require_path(path)
    given = Path(path)
    head = _head(given)
    registry = registry or default_registry()
    readers: list[CheckpointReader] = [kind() for kind in registry.classes("checkpoint_reader")]
    found = [reader for reader in readers if reader.recognizes(given, head)]
    if not found:
        raise FileFormatError(unreadable(given, head))
    if len(found) > 1:
        labels = " and ".join(f"{r.name!r} of {registry.get(r.family, r.name).status.label}" for r in found)
        message = f"{shown(given)} is recognized by the readers {labels}; disable one with REBASIN_PLUGINS"
        raise PluginError(message)
    return found[0]


def digest_of_checkpoint(path: Path | str, *, registry: Registry | None = None) -> str:
    """Return a digest of the files that hold the tensors of a posterior or checkpoint.

    Args:
        path: The file or folder.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        The SHA-256 of a single file; of the list of digests for a folder.

    Raises:
        FileFormatError: If it cannot be read.
    """
    given = Path(path)
    if irregular_kind(given) is None and not FolderReader().recognizes(given, _head(given)):
        return digest_of_file(given)
    return digest_of_json(read_any(path, registry=registry).digests())


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; empty for a folder."""
    if _HUB_NAME.fullmatch(str(path)) is not None and not exists(path):
        message = (
            f"cannot read {shown(path)}: no such file; to use a model of the Hugging Face hub, download it first with "
            f"`hf download {path} --local-dir FOLDER`"
        )
        raise FileFormatError(message)
    if irregular_kind(path) == "a folder":
        return b""
    regular_size(path)
    try:
        with path.open("rb") as handle:
            return handle.read(HEAD_BYTES)
    except OSError as error:
        message = f"cannot read {shown(path)}: {reason(error)}"
        raise FileFormatError(message) from error
