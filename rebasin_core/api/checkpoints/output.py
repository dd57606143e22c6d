"""Outputs of alignments and merges: their path, their layout and the record in their metadata."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_core.api.checkpoints.progress import phase
from rebasin_core.checkpoints.writing import SUFFIX, require_output, write_checkpoint
from rebasin_core.errors import StorageError
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.reading import exists, is_same_file, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.symmetry.permutation import Permutation

PROVENANCE = "rebasin"
"""Entry of the metadata of outputs: a JSON text with the inputs, the specification, the permutations and the method."""

_ELEMENT = "permutation"


def require_free_output(output: Path, inputs: Iterable[Checkpoint], *, force: bool) -> None:
    """Raise if an output cannot be written, would replace an input, or exists and must not be replaced.

    Args:
        output: The file or folder to be written.
        inputs: The checkpoints that are read.
        force: Whether an existing output that is not an input may be replaced.

    Raises:
        InvalidInputError: If the name of the output is that of another format.
        StorageError: If the output cannot be written, is one of the inputs or contains one (also through a link), or
            exists and ``force`` is false.
    """
    require_output(output)
    for given in inputs:
        paths = [given.path, *given.files, *given.companions]
        inside = output.is_dir() and any(output.resolve() in path.resolve().parents for path in paths)
        if inside or any(is_same_file(output, path) for path in paths):
            message = f"the output {shown(output)} is also an input ({shown(given.path)}); choose another output"
            raise StorageError(message)
    if not force and exists(output):
        message = f"{shown(output)} exists; choose another output, or replace it with `force` (--force)"
        raise StorageError(message)


def permutation_path(output: Path, label: str = "") -> Path:
    """Return the path of the permutation next to an output file, or in an output folder.

    Args:
        output: The output.
        label: Number of the input that is permuted, if there are several; empty if there is one.

    Returns:
        The path of a safetensors file.
    """
    name = f"{_ELEMENT}{label}{SUFFIX}"
    return output.with_name(f"{output.stem}.{name}") if output.suffix == SUFFIX else output / f"rebasin_{name}"


def write_output(  # ruff: ignore[too-many-arguments] - all parts of an output
    output: Path,
    like: CheckpointNetwork,
    produce: Callable[[str], Tensor],
    permutations: Mapping[str, Permutation],
    provenance: Mapping[str, Any],
    *,
    inputs: Sequence[Checkpoint],
    work: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int,
    progress: bool = False,
) -> tuple[Path, ...]:
    """Write a network in the layout of a checkpoint, the permutations, and the provenance in the metadata.

    Args:
        output: A file with the suffix ``.safetensors``, or a folder.
        like: The network with the names, dtypes and other files of the output.
        produce: Returns a tensor of the model by its name.
        permutations: Permutations by their label; see `permutation_path`.
        provenance: JSON values about the method.
        inputs: The checkpoints that were read.
        work: Folder on the same disk for the unfinished output.
        dtype: Dtype of floating-point tensors; that of ``like`` if None.
        max_shard_bytes: Maximum size of a shard in a folder.
        progress: Whether to show a progress bar.

    Returns:
        The files with tensors, then those of the permutations.

    Raises:
        StorageError: If the output cannot be written; an existing one is not changed.
    """
    is_file = output.suffix == SUFFIX
    infos = like.infos(dtype)
    in_file = like.in_file(produce)
    elements = {label: work / permutation_path(output, label).name for label in permutations}
    for label, path in elements.items():
        permutations[label].save(path)
    record = {
        "version": version("rebasin-core"),
        "inputs": [{"path": given.path.name, "sha256": dict(given.digests())} for given in inputs],
        "permutations": {path.name: digest_of_file(path) for path in elements.values()},
        **provenance,
    }
    others = [path for path in like.checkpoint.companions if not is_file]
    with phase("write", infos, shown=progress) as done:
        files = write_checkpoint(
            output,
            infos,
            lambda name: in_file(name).to(infos[name].dtype),
            metadata={PROVENANCE: json.dumps(record, sort_keys=True)},
            companions=[*others, *([] if is_file else elements.values())],
            max_shard_bytes=max_shard_bytes,
            work=work,
            progress=done,
        )
    if is_file:
        for label, path in elements.items():
            shutil.move(path, permutation_path(output, label))
    return (*files, *(permutation_path(output, label) for label in permutations))


@contextmanager
def working_folder(output: Path, work: Path | None) -> Generator[Path]:
    """Provide a folder for unfinished work on the disk of an output.

    Args:
        output: The output.
        work: The folder; if None, a temporary one next to the output, which is removed afterwards.

    Yields:
        The folder.

    Raises:
        StorageError: If the folder cannot be made.
    """
    if work is not None:
        yield work
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=output.parent, prefix=".rebasin-", suffix=".part")
    except OSError as error:
        message = f"cannot write to {shown(output.parent)}: {reason(error)}"
        raise StorageError(message) from error
    with folder as name:
        yield Path(name)
