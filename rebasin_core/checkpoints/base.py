"""The interface of readers of checkpoint files."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch
from safetensors import SafetensorError

from rebasin_core.errors import FileFormatError, InvalidInputError, RebasinError
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.arguments import require_path
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS
from rebasin_core.tensors.reading import reason, shown

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint

HEAD_BYTES = 4096
"""Number of bytes at the start of a file that readers see to recognize its format."""

# Headers of NumPy arrays are Python literals, which are split into tokens.
_DAMAGED = (
    OSError,
    EOFError,
    MemoryError,
    SyntaxError,
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    *OF_DAMAGED_TENSORS,
)
_MAX_REASON = 160
_MAX_NAME_LENGTH = 500


class CheckpointReader(Strategy):
    """Reader of one file format of checkpoints.

    The format is recognized from the content of a file, or from the files in a folder, never from the name or suffix.
    Each format is recognized by one reader.

    Laws:
        - *Recognition*: the examples are recognized under any name; text, HTML, JSON of other programs, random bytes
          and empty files are not, and no input raises an error.
        - *Content*: two readings are equal; files, digests and sizes are those on the disk.
        - *Private maps*: reading changes no file, nor do in-memory changes of tensors.
        - *Damage*: truncated files raise a `RebasinError`, or have fewer or other tensors, but cause no other error.
        - *Canonical*: equal readers have equal JSON.
    """

    family: ClassVar[str] = "checkpoint_reader"

    @abstractmethod
    def recognizes(self, path: Path, head: bytes) -> bool:
        """Return whether a file or folder has the format of this reader.

        Args:
            path: An existing file or folder; read it only if ``head`` is not sufficient, as for a folder.
            head: First bytes of the file, at most 4096; empty for a folder.

        Returns:
            Whether it has; False for a file that cannot be read.
        """

    @final
    def read(self, path: Path | str, *, entry: str | None = None) -> Checkpoint:
        """Open a checkpoint of this format; no code in it is executed.

        Args:
            path: The file or folder.
            entry: Keys of the nested state dict to read, joined by dots, such as ``state_dict``; needed if a file
                contains several.

        Returns:
            The checkpoint.

        Raises:
            FileFormatError: If the file is missing, damaged, of another format, or contains tensors that are not dense.
            InvalidInputError: If there is no such entry, or several and none is given.
        """
        require_path(path)
        given = Path(path)
        try:
            found = self._read(given, entry)
        except _DAMAGED as error:
            if isinstance(error, RebasinError):
                raise
            problem = f"{short_reason(error)}. The file is damaged, or not in the format {self.name!r}"
            message = f"cannot read {shown(given)}: {problem}"
            raise FileFormatError(message) from error
        _require_plain(found)
        return found

    @abstractmethod
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        """Open a checkpoint. Errors about damaged files and tensors become `FileFormatError`.

        Args:
            path: The file or folder.
            entry: Keys of the nested state dict, joined by dots; None for the only one.

        Returns:
            The checkpoint, with dense tensors on the CPU, mapped to memory if possible.
        """


def require_no_entry(path: Path, entry: str | None, format_name: str) -> None:
    """Raise if an entry is requested from a format that has no nested state dicts.

    Args:
        path: The file, for the message.
        entry: The requested entry.
        format_name: Description of the format, for the message.

    Raises:
        InvalidInputError: If an entry is requested.
    """
    if entry is not None:
        message = f"{shown(path)}: {format_name} has no entries, got entry {shown(entry)}; omit it"
        raise InvalidInputError(message)


def short_reason(error: BaseException) -> str:
    """Return the reason why a file could not be read; libraries repeat content of files in their messages.

    Args:
        error: The exception of a library.

    Returns:
        The reason in one line of at most 163 characters.
    """
    text = f"{type(error).__name__} {reason(error)}" if isinstance(error, LookupError) else reason(error)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."


def _require_plain(checkpoint: Checkpoint) -> None:
    """Raise unless a checkpoint has tensors with printable names, dense, on the CPU and within their memory."""
    if not checkpoint.tensors:
        message = f"{shown(checkpoint.path)} contains no tensors; expected the parameters of a network"
        raise FileFormatError(message)
    unusable = [name for name in checkpoint.tensors if not name.isprintable() or not 0 < len(name) <= _MAX_NAME_LENGTH]
    if unusable:
        message = (
            f"{shown(checkpoint.path)}: expected printable names of at most {_MAX_NAME_LENGTH} characters, got "
            f"{shown(unusable[0])}"
        )
        raise FileFormatError(message)
    problems: dict[str, list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        problem = _problem(tensor)
        if problem is not None:
            problems.setdefault(problem, []).append(name)
    if problems:
        problem, names = next(iter(problems.items()))
        message = (
            f"{shown(checkpoint.path)}: expected dense tensors with their entries, got {problem} for {shorten(names)}"
        )
        raise FileFormatError(message)


def _problem(tensor: Tensor) -> str | None:
    """Return the reason why a tensor cannot be used like a plain one."""
    if tensor.layout != torch.strided:
        return f"layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return f"quantized tensors ({tensor.dtype}); dequantize them first, `tensor.dequantize()`"
    if tensor.device.type != "cpu":
        return f"tensors without entries (device {tensor.device.type!r})"
    # Tensors that repeat entries (of a stride 0) may have any shape in a file of a few bytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "expanded tensors, which repeat their entries; save `tensor.contiguous()` instead"
    return None
