"""Outputs that a killed run of the same recipe has finished, but whose unfinished work it has not removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rebasin_core.api.checkpoints.output import permutation_path, unfinished_work
from rebasin_core.api.checkpoints.verification import equal_bytes, provenance_of
from rebasin_core.api.opening import open_checkpoint
from rebasin_core.errors import RebasinError, StorageError
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.lock import LOCK
from rebasin_core.tensors.reading import exists, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.config.recipe import AlignRecipe, MergeRecipe


def is_finished_output(
    recipe: AlignRecipe | MergeRecipe, output: Path, inputs: Sequence[Checkpoint], labels: Iterable[str]
) -> bool:
    """Return whether an output is that of a run of the same recipe, which was killed before it removed its work.

    Args:
        recipe: The recipe.
        output: Its output.
        inputs: The checkpoints that the recipe reads, in the order of the record in the output.
        labels: Labels of the permutations; see `permutation_path`.

    Returns:
        Whether there is unfinished work of the output, and the record in the output has this recipe, and the digests of
        these inputs and of the permutations. False with ``force``, which replaces the output.
    """
    if recipe.force or not exists(unfinished_work(output) / LOCK) or not exists(output):
        return False
    try:
        record = provenance_of(open_checkpoint(output))
        digests = [dict(given.digests()) for given in inputs]
        placed = {path.name: digest_of_file(path) for path in (permutation_path(output, label) for label in labels)}
    except RebasinError:  # not an output, damaged, or without its permutations
        return False
    stated = [given.get("sha256") for given in record["inputs"]]
    return (_comparable(record.get("recipe")), stated, record["permutations"]) == (
        _comparable(json.loads(recipe.canonical_json())),
        digests,
        placed,
    )


def finished_files(
    output: Path,
    like: CheckpointNetwork,
    produce: Callable[[str], Tensor],
    labels: Iterable[str],
    *,
    dtype: torch.dtype | None,
) -> tuple[Path, ...]:
    """Return the files of a finished output after a comparison with the tensors that would be written.

    Args:
        output: The output.
        like: The network with the names and dtypes of the output.
        produce: Returns a tensor of the model by its name.
        labels: Labels of the permutations; see `permutation_path`.
        dtype: Dtype of floating-point tensors; that of ``like`` if None.

    Returns:
        The files with tensors, then those of the permutations.

    Raises:
        StorageError: If a tensor differs, because data or options that are not in the recipe were others, or the output
            is damaged.
    """
    written = open_checkpoint(output)
    infos = like.infos(dtype)
    in_file = like.in_file(produce)
    is_equal = infos.keys() == written.tensors.keys() and all(
        equal_bytes(in_file(name).to(info.dtype), written.tensors[name]) for name, info in infos.items()
    )
    if not is_equal:
        message = f"{shown(output)} exists, and differs from this result; replace it with `force` (--force)"
        raise StorageError(message)
    return (*written.files, *(permutation_path(output, label) for label in labels))


def _comparable(recipe: Any) -> Any:  # ruff: ignore[any-type] - JSON
    """Return the entries of a recipe that determine its output."""
    return {name: value for name, value in recipe.items() if name != "force"} if isinstance(recipe, dict) else recipe
