"""The command `rebasin recipe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, shared
from rebasin_core.cli.guard import on_interrupt

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=PATH)
@click.option("--output", "-o", type=PATH, help="Output: a file NAME.safetensors, or a folder. Overrides the recipe.")
@click.option("--force", is_flag=True, help="Replace an existing output (never an input).")
@shared("report")
def recipe(file: Path, output: Path | None, *, force: bool, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Align or merge checkpoints as the recipe FILE (YAML or JSON) describes.

    `command: align` or `command: merge`, and the options of that command. The recipe is in the metadata of the output.
    """
    from rebasin_core.api.checkpoints.recipes import load_recipe, run_recipe
    from rebasin_core.cli.checkpoints.output import print_recipe_result, resumption, show_progress

    found = load_recipe(file)
    target = output or found.output
    with on_interrupt(lambda: resumption(target)):
        result = run_recipe(
            found.replace(output=target, force=force or found.force), progress=show_progress(quiet=given["quiet"])
        )
    print_recipe_result(result, full=given["full"], as_json=given["as_json"], quiet=given["quiet"])
