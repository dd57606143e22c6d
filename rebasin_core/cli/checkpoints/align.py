"""The command `rebasin align`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, recipe, shared
from rebasin_core.cli.guard import on_interrupt

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("reference", type=PATH)
@click.argument("candidate", type=PATH)
@shared("model", "names", "matching", "device", "data", "output", "report")
def align(reference: Path, candidate: Path, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Permute CANDIDATE to match REFERENCE.

    Both are files or folders of one model, of any size: safetensors, shards with an index, Hugging Face folders, files
    of torch.save, npz. The output computes the same function as CANDIDATE and has its names, dtypes and other
    files; the permutation is written next to it. The report compares the distance of the networks before and after, and
    with alignment to a shuffled copy of REFERENCE.

    If the command is interrupted or killed, the same command continues.
    """
    from rebasin_core.api.checkpoints.recipes import run_recipe
    from rebasin_core.cli.checkpoints.data import task_of_options
    from rebasin_core.cli.checkpoints.output import print_recipe_result, resumption, show_progress
    from rebasin_core.config.recipe import AlignRecipe

    found = recipe(AlignRecipe, given, reference=reference, candidate=candidate)
    with on_interrupt(lambda: resumption(found.output)):
        result = run_recipe(
            found, task=task_of_options(given), keep=given["keep"], progress=show_progress(quiet=given["quiet"])
        )
    print_recipe_result(result, full=given["full"], as_json=given["as_json"], quiet=given["quiet"])
