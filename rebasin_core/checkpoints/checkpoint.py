"""Checkpoints: the tensors of one network in files of any format, mapped to memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.reading import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of one network in files, read when they are used.

    Tensors are ordinary tensors on the CPU. Where the format allows it, they are mapped to memory: opening a checkpoint
    reads only names and shapes, and the operating system reads the entries of a tensor when they are used and can
    discard them at any time. Maps are private: changes of a tensor never change a file. Tensors in files may
    be unaligned, and sums over unaligned memory can differ in the last digit; clone a tensor where that matters.

    Attributes:
        path: The file or folder that was opened.
        format: Registered name of the reader, such as ``safetensors``.
        tensors: Tensors by name, in the dtypes of the files.
        metadata: Texts in the metadata of the files.
        files: The files that hold the tensors.
        shards: Name of the file of each tensor.
        companions: Files next to the weights that belong to the network: configuration, tokenizer, model card, code.
            They are copied to folders that are written like this checkpoint, and never executed.
        config: Content of the folder's ``config.json``; None if there is none.
        entry: Keys of the nested state dict that was chosen, such as ``("state_dict",)``; empty for the whole file.
        ignored: Description of the other content of the files by its name, which outputs do not contain: states of
            optimizers, counters, other entries.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    shards: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[Path, ...] = ()
    config: Mapping[str, Any] | None = None
    entry: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Sum of the sizes of all tensors, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 digests of the files that hold the tensors.

        Digests are computed once, unless the size or the time of the last change of a file differs.

        Returns:
            The digests in hexadecimal digits, by file name, or by path if two files have the same name.

        Raises:
            FileFormatError: If a file cannot be read any more.
        """
        names = [file.name for file in self.files]
        return {str(file) if names.count(file.name) > 1 else file.name: _digest(file) for file in self.files}

    @override
    def __repr__(self) -> str:
        return (
            f"Checkpoint({str(self.path)!r}, format={self.format!r}, {len(self.tensors)} tensors, "
            f"{self.num_bytes} bytes)"
        )


def _digest(file: Path) -> str:
    try:
        status = file.stat()
    except OSError as error:
        message = f"cannot read {shown(file)}: {reason(error)}"
        raise FileFormatError(message) from error
    return _cached_digest(file.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=4096)
def _cached_digest(file: Path, size: int, modified: int, inode: int) -> str:
    """Return the digest of a file; the other arguments change with the content of the file."""
    del size, modified, inode
    return digest_of_file(file)
