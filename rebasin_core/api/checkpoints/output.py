"""Outputs of alignments and merges: their path, their layout and the record in their metadata."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rebasin_core.api.checkpoints.progress import phase
from rebasin_core.checkpoints.unfinished import unfinished_folder
from rebasin_core.checkpoints.writing import SUFFIX, require_output, write_checkpoint
from rebasin_core.errors import RebasinError, StorageError
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.files import require_writable, write_json
from rebasin_core.tensors.reading import exists, is_same_file, read_json, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.checkpoint import Checkpoint

PROVENANCE = "rebasin"
"""Entry of the metadata of outputs: a JSON text with the inputs, the specification, the permutations and the method."""

PERMUTATION = "permutation"
"""Kind of the maps of alignments and merges, in the names of their files."""

_PLACED = "placed.json"


class Saved(Protocol):
    """A map that is written next to an output: a group element or a folding."""

    def save(self, path: Path) -> None:
        """Write the map to a file."""


def require_free_output(
    output: Path,
    inputs: Iterable[Checkpoint | Path],
    *,
    force: bool,
    labels: Iterable[str] = ("",),
    kind: str = PERMUTATION,
) -> None:
    """Raise if an output cannot be written, would replace an input, or exists and must not be replaced.

    Args:
        output: The file or folder to be written.
        inputs: The checkpoints and other files that are read.
        force: Whether an existing output that is not an input may be replaced.
        labels: Labels of the permutations that are written; see `permutation_path`.
        kind: Kind of maps that are written.

    Raises:
        InvalidInputError: If the name of the output is that of another format.
        StorageError: If the output or the permutation next to it cannot be written; if one of them is an input,
            contains one (also through a link), or is in the folder of one; or if one exists and ``force`` is false.
    """
    if "\0" in str(output):
        message = f"cannot write {shown(output)}: the path contains a NUL character"
        raise StorageError(message)
    require_output(output)
    is_file = output.suffix == SUFFIX
    permutations = [permutation_path(output, label, kind) for label in labels] if is_file else []
    for path in permutations:
        require_writable(path)
    written = [output, *permutations]
    for given in inputs:
        for path in written:
            _require_no_input(path, output, given)
    if not force:
        placed = _placed(output)
        for path in written:
            if exists(path) and not (path.name in placed and placed[path.name] == digest_of_file(path)):
                message = f"{shown(path)} exists; choose another output, or replace it with `force` (--force)"
                raise StorageError(message)


def unfinished_work(output: Path) -> Path:
    """Return the path of the folder with the state of an unfinished output of a recipe.

    Args:
        output: The output.

    Returns:
        A path next to the output.
    """
    return output.with_name(f"{output.name}.unfinished")


def permutation_path(output: Path, label: str = "", kind: str = PERMUTATION) -> Path:
    """Return the path of the permutation next to an output file, or in an output folder.

    Args:
        output: The output.
        label: Number of the input that is permuted, if there are several; empty if there is one.
        kind: Another kind of map, such as ``folding``.

    Returns:
        The path of a safetensors file.
    """
    name = f"{kind}{label}{SUFFIX}"
    return output.with_name(f"{output.stem}.{name}") if output.suffix == SUFFIX else output / f"rebasin_{name}"


def write_output(  # ruff: ignore[too-many-arguments] - all parts of an output
    output: Path,
    like: CheckpointNetwork,
    produce: Callable[[str], Tensor],
    permutations: Mapping[str, Saved],
    provenance: Mapping[str, Any],
    *,
    inputs: Sequence[Checkpoint],
    work: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int,
    progress: bool = False,
    kind: str = PERMUTATION,
) -> tuple[Path, ...]:
    """Write a network in the layout of a checkpoint, the permutations, and the provenance in the metadata.

    Args:
        output: A file with the suffix ``.safetensors``, or a folder.
        like: The network with the names, dtypes and other files of the output.
        produce: Returns a tensor of the model by its name.
        permutations: Permutations, or other maps, by their label; see `permutation_path`.
        provenance: JSON values about the method.
        inputs: The checkpoints that were read.
        work: Folder on the same disk for the unfinished output.
        dtype: Dtype of floating-point tensors; that of ``like`` if None.
        max_shard_bytes: Maximum size of a shard in a folder.
        progress: Whether to show a progress bar.
        kind: Kind of the maps.

    Returns:
        The files with tensors, then those of the permutations.

    Raises:
        StorageError: If the output cannot be written; an existing one is not changed.
    """
    is_file = output.suffix == SUFFIX
    infos = like.infos(dtype)
    in_file = like.in_file(produce)
    elements = {label: work / permutation_path(output, label, kind).name for label in permutations}
    for label, path in elements.items():
        permutations[label].save(path)
    digests = {path.name: digest_of_file(path) for path in elements.values()}
    record = {
        "version": version("rebasin-core"),
        "inputs": [{"path": given.path.name, "sha256": dict(given.digests())} for given in inputs],
        "permutations": digests,
        **provenance,
    }
    write_json(work / _PLACED, digests)
    others = [path for path in like.checkpoint.companions if not is_file]
    with phase("write", infos, shown=progress) as done:
        files = write_checkpoint(
            output,
            infos,
            lambda name: in_file(name).to(infos[name].dtype),
            metadata={PROVENANCE: json.dumps(record)},
            companions=[*others, *([] if is_file else elements.values())],
            renamed={path: permutation_path(output, label, kind) for label, path in elements.items()},
            max_shard_bytes=max_shard_bytes,
            work=work,
            progress=done,
        )
    return (*files, *(permutation_path(output, label, kind) for label in permutations))


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
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(unfinished_folder(output))
        except OSError as error:
            message = f"cannot write to {shown(output.parent)}: {reason(error)}"
            raise StorageError(message) from error
        yield folder


def _require_no_input(path: Path, output: Path, given: Checkpoint | Path) -> None:
    """Raise if a path that is written is that of an input, contains an input, or is in the folder of one."""
    if isinstance(given, Path):
        main, paths = given, [given]
    else:
        main, paths = given.path, [given.path, *given.files, *given.companions]
    parents = {parent for each in paths for parent in each.resolve().parents}
    contains = (path.is_dir() and path.resolve() in parents) or unfinished_work(output).resolve() in parents
    if contains or any(is_same_file(path, each) for each in paths):
        message = f"the output {shown(path)} is also an input ({shown(main)}); choose another output"
        raise StorageError(message)
    if main.is_dir() and main.resolve() in path.resolve().parents:
        message = f"the output {shown(path)} is in the folder of an input ({shown(main)}); choose another output"
        raise StorageError(message)


def _placed(output: Path) -> dict[str, str]:
    """Return the digests of the permutations that a killed run may have written next to the output, by file name."""
    try:
        found = read_json(unfinished_work(output) / _PLACED)
    except RebasinError:
        return {}
    return found if isinstance(found, dict) else {}
