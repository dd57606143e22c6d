"""The command `rebasin diff`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, recipe, shared
from rebasin_core.cli.guard import ExitCode

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("reference", type=PATH)
@click.argument("candidate", type=PATH)
@click.option(
    "--verify",
    type=PATH,
    help="Output of `align` for these checkpoints: verify that it is CANDIDATE, permuted by the permutation next to "
    "it, and that the inputs are unchanged.",
)
@shared("model", "names", "matching", "device", "data", "report")
def diff(reference: Path, candidate: Path, verify: Path | None, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Print how different two checkpoints are, and how much of the difference is a permutation.

    No file is written. Exit code 1 if --verify fails.
    \f

    Raises:
        SystemExit: If the verification fails.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.api.checkpoints.recipes import opened_entries, run_recipe
    from rebasin_core.api.checkpoints.verification import verify_output
    from rebasin_core.cli.checkpoints.data import task_of_options
    from rebasin_core.cli.checkpoints.output import print_recipe_result, show_progress
    from rebasin_core.config.recipe import AlignRecipe

    found = recipe(AlignRecipe, given, reference=reference, candidate=candidate)
    if verify is not None:
        problems = verify_output(verify, *opened_entries([reference, candidate], found.entry), names=found.names)
        if given["as_json"]:
            click.echo(json.dumps({"output": str(verify), "problems": problems}, indent=2))
        else:
            click.echo("\n".join(problems) or f"verified: {verify}")
        if problems:
            raise SystemExit(ExitCode.FAILED)
        return
    result = run_recipe(
        found, task=task_of_options(given), keep=given["keep"], progress=show_progress(quiet=given["quiet"])
    )
    print_recipe_result(result, full=given["full"], as_json=given["as_json"], quiet=given["quiet"])
