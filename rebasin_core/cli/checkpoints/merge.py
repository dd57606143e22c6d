"""The command `rebasin merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, recipe, shared, strategy
from rebasin_core.cli.guard import on_interrupt

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("checkpoints", type=PATH, nargs=-1, required=True)
@click.option(
    "--method",
    default="mean",
    show_default=True,
    help="Merge method: a registered name, or a mapping such as '{name: ties, density: 0.3}'.",
)
@click.option("--base", type=PATH, help="Base of methods that merge differences, such as the model before fine-tuning.")
@click.option("--weight", "-w", "weights", multiple=True, type=float, help="Weight of one checkpoint; repeat for each.")
@click.option("--align/--no-align", "is_aligned", default=True, show_default=True, help="Align before merging.")
@click.option(
    "--repair",
    type=click.Choice(["reset", "repair"]),
    help="`reset`: recompute batch-normalization statistics; `repair`: REPAIR. Needs --data.",
)
@shared("model", "names", "matching", "device", "data", "output", "report")
def merge(checkpoints: tuple[Path, ...], **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Align CHECKPOINTS with the first one, or with --base, and merge them.

    The output has the names, dtypes and other files of the first checkpoint; the permutations are written next to
    it. If the command is interrupted or killed, the same command continues.
    """
    from rebasin_core.api.checkpoints.recipes import run_recipe
    from rebasin_core.cli.checkpoints.data import task_of_options
    from rebasin_core.cli.checkpoints.output import print_recipe_result, resumption, show_progress
    from rebasin_core.config.recipe import MergeRecipe

    found = recipe(
        MergeRecipe,
        given,
        checkpoints=checkpoints,
        method=strategy(given["method"], "--method"),
        weights=given["weights"] or None,
        align=given["is_aligned"],
    )
    with on_interrupt(lambda: resumption(found.output)):
        result = run_recipe(
            found,
            task=task_of_options(given),
            keep=given["keep"],
            repair=given["repair"],
            progress=show_progress(quiet=given["quiet"]),
        )
    print_recipe_result(result, full=given["full"], as_json=given["as_json"], quiet=given["quiet"])
