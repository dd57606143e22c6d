"""Writing of checkpoints tensor by tensor: one safetensors file, or a folder of shards with an index."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.checkpoints.unfinished import unfinished_folder
from rebasin_core.checkpoints.weights import belonging_to, has_weights
from rebasin_core.errors import InvalidInputError, StorageError
from rebasin_core.tensors.files import flush_folder, require_writable
from rebasin_core.tensors.reading import exists, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

INDEX = "model.safetensors.index.json"
"""Name of the index of a folder of shards, as in folders of Hugging Face libraries."""

SUFFIX = ".safetensors"
"""Suffix of an output file; outputs with other names are folders."""

MAX_SHARD_BYTES = 5 * 10**9
"""Default size of a shard, in bytes."""

_WHOLE = "model.safetensors"
_ALIGNMENT = 8
_PIECE = 2**24
# Names of dtypes in files, from the specification of the format, in the order in which its library writes them.
_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: position for position, dtype in enumerate(_DTYPES)}


@final
@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Dtype and shape of a tensor that will be written.

    Attributes:
        dtype: The dtype.
        shape: The shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the entries in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def write_checkpoint(  # ruff: ignore[too-many-arguments] - all but three have defaults
    path: Path | str,
    infos: Mapping[str, TensorInfo],
    produce: Callable[[str], Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    companions: Iterable[Path] = (),
    renamed: Mapping[Path, Path] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    work: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Write tensors one at a time, whole or not at all.

    A path with the suffix ``.safetensors`` is one file, any other path a folder with `INDEX` and shards, or with
    ``model.safetensors`` if one shard suffices. The content is determined by the tensors and the metadata.

    Args:
        path: The file or folder; replaced if it exists.
        infos: Dtype and shape of every tensor by name.
        produce: Returns a tensor by its name; called once for each, in the order of the files.
        metadata: Texts in the metadata of all files, in addition to ``format: pt``.
        companions: Files to copy to the folder; none for a single file.
        renamed: Finished files on the same disk, and their final paths; they are renamed immediately before the output.
            Only for a single file.
        max_shard_bytes: Maximum size of a shard; a larger tensor has a shard of its own.
        work: Folder on the same disk for the unfinished output; a temporary folder next to the output if None.
        progress: Called with the name of each tensor when it is written.

    Returns:
        The files with tensors.

    Raises:
        InvalidInputError: If a dtype cannot be written, or a produced tensor does not have the expected dtype or shape.
        StorageError: If the output cannot be written; an existing one is not changed.
    """
    target = Path(path)
    for name, info in infos.items():
        if info.dtype not in _DTYPES:
            message = f"`{name}` is of dtype {info.dtype}, which safetensors files cannot contain"
            raise InvalidInputError(message)
    require_output(target)
    copied = tuple(companions)
    _require_space(target, sum(info.nbytes for info in infos.values()) + sum(path.stat().st_size for path in copied))
    is_file = target.suffix == SUFFIX
    shards = [sorted_names(infos)] if is_file else shards_of(infos, max_shard_bytes)
    names_of_files = [target.name] if is_file else shard_names(len(shards))
    output = _Output(infos, produce, metadata or {}, progress)
    try:  # ruff: ignore[too-many-statements-in-try-clause] - each may fail because the disk is full
        with _unfinished(target, work) as folder:
            output.write(folder, dict(zip(names_of_files, shards, strict=True)))
            if is_file:
                for finished, final in (renamed or {}).items():
                    finished.replace(final)
                (folder / target.name).replace(target)
            else:
                _add_companions(folder, copied)
                _replace_folder(folder, target)
        flush_folder(target.parent)
    except OSError as error:
        message = f"cannot write {shown(target)}: {reason(error)}. Check the free space and the folder's permissions"
        raise StorageError(message) from error
    return (target,) if is_file else tuple(target / file for file in names_of_files)


def require_output(target: Path) -> None:
    """Raise if an output cannot be written at a path, without writing it.

    Args:
        target: Path of the file or folder.

    Raises:
        InvalidInputError: If the path has the suffix of another format.
        StorageError: If its folder is not writable, it is a folder instead of a file or the reverse, or a folder with
            files that are not those of a checkpoint.
    """
    if target.suffix in {".pt", ".pth", ".bin", ".ckpt", ".npz", ".gguf", ".h5"}:
        message = (
            f"outputs are safetensors files or folders of them, not {target.suffix}; write to "
            f"{shown(target.with_suffix(SUFFIX))}"
        )
        raise InvalidInputError(message)
    if target.suffix == SUFFIX:
        require_writable(target)
    elif exists(target) and not target.is_dir():
        message = f"cannot write the folder {shown(target)}: it is a file. Choose another path, or the suffix {SUFFIX}"
        raise StorageError(message)
    else:
        require_writable(target / _WHOLE)
        foreign = _foreign_content(target) if target.is_dir() else None
        if foreign is not None:
            message = (
                f"cannot replace the folder {shown(target)}: it contains {foreign}. Choose another output, or remove "
                "the folder"
            )
            raise StorageError(message)


def sorted_names(infos: Mapping[str, TensorInfo]) -> list[str]:
    """Return names in the order in which files contain their tensors: by dtype, large entries first, then by name.

    Args:
        infos: The tensors.

    Returns:
        The names.
    """
    return sorted(infos, key=lambda name: (_ORDER[infos[name].dtype], name))


def shards_of(infos: Mapping[str, TensorInfo], max_bytes: int) -> list[list[str]]:
    """Divide tensors into shards, in their order.

    Args:
        infos: The tensors.
        max_bytes: Maximum size of a shard.

    Returns:
        Names of the tensors of each shard; at least one shard.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return [sorted_names({name: infos[name] for name in names}) for names in shards]


def shard_names(count: int) -> list[str]:
    """Return the file names of shards, as in folders of Hugging Face libraries.

    Args:
        count: Number of shards.

    Returns:
        The names.
    """
    if count == 1:
        return [_WHOLE]
    return [f"model-{number:05d}-of-{count:05d}{SUFFIX}" for number in range(1, count + 1)]


@final
@dataclass(frozen=True, eq=False, slots=True)
class _Output:
    """The content of an output; see `write_checkpoint`."""

    infos: Mapping[str, TensorInfo]
    produce: Callable[[str], Tensor]
    metadata: Mapping[str, str]
    progress: Callable[[str], None] | None

    def write(self, folder: Path, shards: Mapping[str, Sequence[str]]) -> None:
        """Write the files, given the names of their tensors, and an index if there are several."""
        for file, names in shards.items():
            self._write_file(folder / file, names)
        if len(shards) > 1:
            where = {name: file for file, names in shards.items() for name in names}
            size = sum(info.nbytes for info in self.infos.values())
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write_file(self, path: Path, names: Sequence[str]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **dict(sorted(self.metadata.items()))}}
        size = 0
        for name in names:
            info = self.infos[name]
            start, size = size, size + info.nbytes
            entry = {"dtype": _DTYPES[info.dtype], "shape": list(info.shape), "data_offsets": [start, size]}
            header[name] = entry
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with path.open("wb") as handle:
            handle.write(len(text).to_bytes(8, "little"))
            handle.write(text)
            for name in names:
                handle.writelines(self._content(name))
                if self.progress is not None:
                    self.progress(name)
            handle.flush()
            os.fsync(handle.fileno())

    def _content(self, name: str) -> Iterator[memoryview]:
        """Yield the entries of a tensor in pieces."""
        info = self.infos[name]
        tensor = self.produce(name)
        if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
            message = f"`{name}` became {tensor.dtype} {[*tensor.shape]}, expected {info.dtype} {[*info.shape]}"
            raise InvalidInputError(message)
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE].data


def _add_companions(folder: Path, companions: Iterable[Path]) -> None:
    for companion in companions:
        shutil.copyfile(companion, folder / companion.name)


def _unfinished(target: Path, work: Path | None) -> AbstractContextManager[Path]:
    """Return a context manager with an empty folder for the unfinished output, which is removed afterwards."""
    return unfinished_folder(target) if work is None else _folder_in(work)


@contextmanager
def _folder_in(work: Path) -> Generator[Path]:
    folder = work / "output"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_space(target: Path, size: int) -> None:
    """Raise if the disk of an output has too little free space; an output that is replaced is removed only later."""
    folder = next((parent for parent in target.absolute().parents if parent.exists()), None)
    free = size if folder is None else shutil.disk_usage(folder).free
    if size > free:
        message = (
            f"cannot write {shown(target)}: it needs {size / 10**9:.2f} GB, and {free / 10**9:.2f} GB of its disk are "
            "free; choose another disk"
        )
        raise StorageError(message)


def _foreign_content(folder: Path) -> str | None:
    """Return the reason why a folder is not that of a checkpoint; None if it is empty or may be replaced."""
    belonging = {path.name for path in belonging_to(folder)} | {INDEX}
    entries = list(folder.iterdir())
    foreign = [
        path.name for path in entries if path.name not in belonging and not (path.suffix == SUFFIX and path.is_file())
    ]
    if foreign:
        return f"{shown(foreign[0])}, which is not a file of a checkpoint"
    return "no weights, and other files" if entries and not has_weights(folder) else None


def _replace_folder(folder: Path, target: Path) -> None:
    """Rename a folder; an existing folder at the target is removed after it was renamed."""
    if not exists(target):
        folder.replace(target)
        return
    old = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    folder.replace(target)
    shutil.rmtree(old, ignore_errors=True)
