"""Reader of files that `torch.save` wrote: ``.pt``, ``.pth``, ``.bin``, ``.ckpt``."""

from __future__ import annotations

import mmap
import pickle  # ruff: ignore[suspicious-pickle-import] - for the class of an error; no pickle is loaded with it
import re
import sys
import tempfile
import warnings
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from typing_extensions import override

from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.nested import choose_entry
from rebasin_core.checkpoints.zip_directory import ZIP_MAGIC, zip_entries, zip_names
from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_LEGACY_HEAD = 40
_PICKLE_START = b"\x80"
_OBJECT_FILE = "data.pkl"
_MAX_OBJECT_BYTES = 128 * 2**20
# PyTorch chooses the format of these files from their names.
_SUFFIX_OF_SAFETENSORS = ".safetensors"
_FORBIDDEN = re.compile(r"GLOBAL (\S+)|class/function `?([\w.]+)")
_INNER = re.compile(r"WeightsUnpickler error:\s*(.+)")
_MAX_REASON = 160


@final
class TorchReader(CheckpointReader):
    """Reads the state dict in a file of `torch.save`, also nested with others, as training programs save it.

    Only tensors and plain containers are unpickled (``weights_only=True``); a file with any other object raises an
    error. Tensors are mapped to memory, except for files in the format before PyTorch 1.6, which are read.
    """

    name: Literal["torch"] = "torch"

    @override
    def recognizes(self, path: Path, head: bytes) -> bool:
        if head.startswith(ZIP_MAGIC):
            return is_torch_archive(zip_names(path))
        return head.startswith(_PICKLE_START) and _LEGACY_MAGIC in head[:_MAX_LEGACY_HEAD]

    @override
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        chosen = choose_entry(load_torch(path), path, entry)
        return Checkpoint(
            path,
            self.name,
            chosen.tensors,
            files=(path,),
            shards=dict.fromkeys(chosen.tensors, path.name),
            entry=chosen.keys,
            ignored=chosen.ignored,
        )


def is_torch_archive(names: Sequence[str]) -> bool:
    """Return whether the names in a zip archive are those of `torch.save`.

    Args:
        names: The names.

    Returns:
        Whether they are; False for TorchScript, which contains code.
    """
    files = {name.rpartition("/")[2] for name in names if name.count("/") == 1}
    return _OBJECT_FILE in files and "constants.pkl" not in files


def load_torch(path: Path) -> Any:  # ruff: ignore[any-type] - any object that was saved
    """Return the object in a file of `torch.save`, with tensors on the CPU, mapped to memory if possible.

    Args:
        path: The file.

    Returns:
        Tensors, numbers and texts in containers.

    Raises:
        FileFormatError: If the file is missing, damaged, or contains any other Python object.
    """
    regular_size(path)
    with path.open("rb") as handle:
        is_archive = handle.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_archive:
        _require_plain_archive(path)
    if path.name.endswith(_SUFFIX_OF_SAFETENSORS):
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "checkpoint.pt")
            link.symlink_to(path.absolute())
            return _load(path, link, is_archive=is_archive)
    return _load(path, path, is_archive=is_archive)


def _load(path: Path, readable: Path, *, is_archive: bool) -> Any:  # ruff: ignore[any-type] - any object
    try:
        with warnings.catch_warnings(), _private_maps():
            warnings.simplefilter("ignore")  # of deprecated types in old files
            return torch.load(readable, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        message = f"cannot read {shown(path)}: {_unpickling_problem(str(error))}"
        raise FileFormatError(message) from error
    except (AssertionError, ImportError) as error:  # others become errors in `read`
        message = f"cannot read {shown(path)}: {reason(error)}. The file is damaged"
        raise FileFormatError(message) from error


def _private_maps() -> AbstractContextManager[object]:
    """Return a context in which files are mapped privately, whatever the user has set for `torch.load`."""
    if sys.platform == "win32":
        return nullcontext()
    return torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)


def _require_plain_archive(path: Path) -> None:
    """Raise if an archive has compressed or overlapping entries, or a large pickle, which need unbounded memory."""
    entries = zip_entries(path)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        message = f"cannot read {shown(path)}: its entries are compressed; load it with PyTorch and save it again"
        raise FileFormatError(message)
    objects = sum(entry.file_size for entry in entries if entry.filename.endswith(_OBJECT_FILE))
    if objects > _MAX_OBJECT_BYTES:
        message = (
            f"cannot read {shown(path)}: its objects other than tensors have {objects} bytes, expected at most "
            f"{_MAX_OBJECT_BYTES}; save only the state dict"
        )
        raise FileFormatError(message)
    size = sum(entry.file_size for entry in entries)
    if size > path.stat().st_size:
        message = f"cannot read {shown(path)}: its entries have {size} bytes, more than the file; it is damaged"
        raise FileFormatError(message)


def _unpickling_problem(text: str) -> str:
    """Return the problem of a file that PyTorch does not unpickle, and the remedy."""
    found = _FORBIDDEN.search(text)
    if found is None:
        inner = _INNER.search(text)
        return (
            f"its pickle is damaged or not supported ({' '.join((inner[1] if inner else text).split())[:_MAX_REASON]})"
        )
    return (
        f"it contains objects of type or function `{shown(found[1] or found[2], 80)[1:-1]}`, which can execute code; "
        "only tensors and plain containers are read. Where you trust the file, load it with the program that wrote it, "
        "and save the tensors: `torch.save(model.state_dict(), path)`"
    )
