"""Alignments and merges that recipes describe, with their outputs."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.api.checkpoints.alignment import CheckpointAlignment, align_checkpoints
from rebasin_core.api.checkpoints.finished import finished_files, is_finished_output
from rebasin_core.api.checkpoints.merging import CheckpointMerge, label_of, merge_checkpoints, plain_weights
from rebasin_core.api.checkpoints.output import require_free_output, unfinished_work
from rebasin_core.api.opening import open_checkpoint
from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.recipe import AlignRecipe, MergeRecipe
from rebasin_core.errors import ConfigError, InvalidInputError, StorageError
from rebasin_core.plugin.registry import default_registry
from rebasin_core.tensors.lock import LOCK, FolderLock
from rebasin_core.tensors.reading import exists, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rebasin_core.api.checkpoints.alignment import TaskOfModel
    from rebasin_core.api.merging import RepairName
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.evaluation.effect import Keep
    from rebasin_core.plugin.registry import Registry

# Options of recipes that are arguments of `align_checkpoints` and `merge_checkpoints`.
_OPTIONS = ("model", "spec", "matcher", "names", "freeze", "check", "chance", "memory", "device", "seed")


@final
@dataclass(frozen=True, eq=False, slots=True)
class RecipeResult:
    """Result of a recipe.

    Attributes:
        found: The alignment or the merge.
        files: The files that were written: tensors, then permutations; empty without an output.
    """

    found: CheckpointAlignment | CheckpointMerge
    files: tuple[Path, ...]


def run_recipe(
    recipe: AlignRecipe | MergeRecipe,
    *,
    task: TaskOfModel | None = None,
    keep: Keep = "best",
    repair: RepairName | None = None,
    progress: bool = False,
) -> RecipeResult:
    """Align or merge checkpoints as a recipe states, and write the output.

    The state of the search is kept in a folder next to the output, with its name and ``.unfinished``. The same recipe
    continues from it after an interruption, and removes it when the output is written. If a run was killed between
    these two steps, the same recipe compares the output with its result, and removes the folder. Only one process at a
    time works on an output.

    Args:
        recipe: The recipe.
        task: Function that returns a task for the module of the model; see `align_checkpoints`.
        keep: With a task: whether to keep the order of a network whose alignment raises the loss at the midpoint.
        repair: With a task, for merges: recompute statistics (``reset``), or REPAIR (``repair``).
        progress: Whether to show progress bars.

    Returns:
        The result.

    Raises:
        ConfigError: If an option is invalid, or the device is not available.
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoints do not fit each other, the model or the method, or the memory is not
            sufficient.
        SpecError: If the model cannot be traced, or a permutation changes its function.
        StorageError: If the output is an input, exists and ``force`` is false, cannot be written, or another process
            works on it.
    """
    given = [recipe.reference, recipe.candidate] if isinstance(recipe, AlignRecipe) else [*recipe.checkpoints]
    if isinstance(recipe, MergeRecipe) and recipe.base is not None:
        given.append(recipe.base)
    inputs = opened_entries(given, recipe.entry)
    read: list[Checkpoint | Path] = [*inputs, *([] if recipe.spec is None else [recipe.spec])]
    options: dict[str, Any] = {
        **{name: getattr(recipe, name) for name in _OPTIONS},
        "task": task,
        "keep": keep,
        "progress": progress,
    }
    with _work(recipe, read, inputs) as (work, is_finished):
        found: CheckpointAlignment | CheckpointMerge
        if isinstance(recipe, AlignRecipe):
            found = align_checkpoints(*inputs, work=work, **options)
        else:
            found = merge_checkpoints(
                inputs[: len(recipe.checkpoints)],
                base=None if recipe.base is None else inputs[-1],
                method=recipe.method,
                weights=recipe.weights,
                align=recipe.align,
                repair=repair,
                work=work,
                **options,
            )
        files: tuple[Path, ...] = ()
        if recipe.output is not None and is_finished:
            files = _finished(recipe, recipe.output, found)
        elif recipe.output is not None:
            files = _written(recipe, recipe.output, found, work, progress=progress)
    return RecipeResult(found, files)


def load_recipe(file: Path | str, *, registry: Registry | None = None) -> AlignRecipe | MergeRecipe:
    """Read a recipe from a YAML or JSON file.

    Args:
        file: The file, with the entry ``command: align`` or ``command: merge``. Relative paths in it are relative to
            the folder of the file.
        registry: Registry of components; all installed plugins if None.

    Returns:
        The recipe.

    Raises:
        ConfigError: If the file is missing or an entry is invalid; lists all problems with their lines.
    """
    document = Document.read(file)
    lookup = (registry or default_registry()).strategy_class
    command = document.content.get("command", "align") if isinstance(document.content, dict) else "align"
    if str(command) not in {"align", "merge"}:
        message = f"{document.where(('command',))}: command: expected 'align' or 'merge', got {shown(command)}"
        raise ConfigError(message)
    is_merge = command == "merge"
    found = read_config(MergeRecipe, document, lookup) if is_merge else read_config(AlignRecipe, document, lookup)
    folder = Path(file).parent
    paths = {name: folder / value for name, value in found if isinstance(value, Path)}
    if isinstance(found, MergeRecipe):
        return found.replace(**paths, checkpoints=tuple(folder / path for path in found.checkpoints))
    return found.replace(**paths)


def opened_entries(paths: Sequence[Path], entry: str | None) -> list[Checkpoint]:
    """Open checkpoints, with a given entry of those that have it.

    Args:
        paths: The files and folders.
        entry: Keys of a nested state dict, joined by dots; None for the only state dict of each file.

    Returns:
        The checkpoints.

    Raises:
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If no file has the entry, or there are several entries in a file without it.
    """
    found = []
    missing: InvalidInputError | None = None
    for path in paths:
        try:
            found.append(open_checkpoint(path, entry=entry))
        except InvalidInputError as error:
            missing = error
            if entry is None:
                raise
            try:
                found.append(open_checkpoint(path))
            except InvalidInputError:  # there are several entries, and this error names them
                raise error from None
    if missing is not None and not any(".".join(each.entry) == entry for each in found):
        raise missing
    return found


def _finished(
    recipe: AlignRecipe | MergeRecipe, output: Path, found: CheckpointAlignment | CheckpointMerge
) -> tuple[Path, ...]:
    like = found.candidate if isinstance(found, CheckpointAlignment) else found.networks[0]
    return finished_files(output, like, found.tensor, _labels(recipe), dtype=_dtype(recipe))


def _dtype(recipe: AlignRecipe | MergeRecipe) -> torch.dtype | None:
    return None if recipe.dtype is None else getattr(torch, recipe.dtype)


def _written(
    recipe: AlignRecipe | MergeRecipe,
    output: Path,
    found: CheckpointAlignment | CheckpointMerge,
    work: Path | None,
    *,
    progress: bool,
) -> tuple[Path, ...]:
    options = json.loads(recipe.canonical_json())
    if isinstance(recipe, MergeRecipe):
        options["weights"] = plain_weights(recipe.weights)  # the first pattern applies: their order matters
    recorded = replace(found, recipe=options)
    return recorded.write(
        output, force=recipe.force, dtype=_dtype(recipe), max_shard_bytes=recipe.max_shard, work=work, progress=progress
    )


@contextmanager
def _work(
    recipe: AlignRecipe | MergeRecipe, read: Sequence[Checkpoint | Path], inputs: Sequence[Checkpoint]
) -> Generator[tuple[Path | None, bool]]:
    """Provide the folder of unfinished work of an output, which only this process uses.

    If the work fails or is interrupted, the folder remains unless it is empty.

    Yields:
        The folder; None without an output. And whether a killed run has already finished the output.
    """
    if recipe.output is None:
        yield None, False
        return
    _require_output(recipe, recipe.output, read, inputs)
    folder = unfinished_work(recipe.output)
    _require_own(folder)
    with FolderLock(folder):
        try:
            # Another process may have written the output before the folder was locked.
            yield folder, _require_output(recipe, recipe.output, read, inputs)
        except BaseException:
            if not any(path.is_file() and path.name != LOCK for path in folder.rglob("*")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        _remove(folder)


def _require_output(
    recipe: AlignRecipe | MergeRecipe, output: Path, read: Sequence[Checkpoint | Path], inputs: Sequence[Checkpoint]
) -> bool:
    """Raise if an output cannot be written; return whether a killed run of the recipe has already finished it."""
    labels = _labels(recipe)
    is_finished = is_finished_output(recipe, output, inputs, labels)
    require_free_output(output, read, force=recipe.force or is_finished, labels=labels)
    return is_finished


def _remove(folder: Path) -> None:
    """Remove a folder of unfinished work, its lock last: without the lock, it would not be recognized after a kill."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _require_own(folder: Path) -> None:
    """Raise if a folder exists and is not one of unfinished work, because it is removed on completion."""
    if exists(folder) and (folder.is_symlink() or not folder.is_dir() or _is_foreign(folder)):
        message = (
            f"{shown(folder)} exists, and is not the folder of unfinished work; rename it, or choose another output"
        )
        raise StorageError(message)


def _is_foreign(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return bool(names) and LOCK not in names


def _labels(recipe: AlignRecipe | MergeRecipe) -> list[str]:
    """Return the labels of the permutations that are written."""
    if isinstance(recipe, AlignRecipe):
        return [""]
    if not recipe.align:
        return []
    first = 2 if recipe.base is None else 1
    return [label_of(number) for number in range(first, len(recipe.checkpoints) + 1)]
