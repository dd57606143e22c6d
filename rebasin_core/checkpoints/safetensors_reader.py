"""Reader of single safetensors files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from safetensors import SafetensorError, safe_open
from typing_extensions import override

from rebasin_core.checkpoints.base import CheckpointReader, require_no_entry, short_reason
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS
from rebasin_core.tensors.reading import regular_size, shown

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SAFETENSORS = "safetensors"
"""Registered name of the reader of single safetensors files."""

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""Maximum length of the header in the format's specification."""


@final
class SafetensorsReader(CheckpointReader):
    """Reads a single ``.safetensors`` file; its tensors are mapped to memory.

    Examples:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "model.safetensors")
        ...     save_file({"weight": torch.ones(2, 3)}, file)
        ...     checkpoint = SafetensorsReader().read(file)
        >>> checkpoint.tensors["weight"].sum()
        tensor(6.)
    """

    name: Literal["safetensors"] = "safetensors"

    @override
    def recognizes(self, path: Path, head: bytes) -> bool:
        return is_safetensors(head)

    @override
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        require_no_entry(path, entry, "a safetensors file")
        tensors, metadata = map_safetensors(path)
        return Checkpoint(
            path, self.name, tensors, files=(path,), shards=dict.fromkeys(tensors, path.name), metadata=metadata
        )


def is_safetensors(head: bytes) -> bool:
    """Return whether a file starts like a safetensors file: the length of a JSON object, and the object.

    Args:
        head: First bytes of the file.

    Returns:
        Whether it does.
    """
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 2 <= length <= _MAX_HEADER_BYTES


def map_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map the tensors of a safetensors file to memory.

    Args:
        path: The file.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        FileFormatError: If the file is missing, damaged or truncated.
    """
    regular_size(path)
    try:
        with safe_open(path, framework="pt") as handle:
            names = handle.keys()
            return {name: handle.get_tensor(name) for name in names}, dict(handle.metadata() or {})
    except (OSError, SafetensorError, *OF_DAMAGED_TENSORS) as error:
        message = f"cannot read {shown(path)}: {short_reason(error)}. The safetensors file is damaged or truncated"
        raise FileFormatError(message) from error
