"""Output of the commands for checkpoints."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from rebasin_core.api.checkpoints.output import unfinished_work
from rebasin_core.cli.output import terminal_width
from rebasin_core.tensors.reading import exists

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.api.checkpoints.recipes import RecipeResult


def show_progress(*, quiet: bool) -> bool:
    """Return whether to show progress bars: if standard error is a terminal.

    Args:
        quiet: The option `--quiet`.

    Returns:
        Whether to show them.
    """
    return sys.stderr.isatty() and not quiet


def resumption(output: Path | None) -> str:
    """Return how to continue an interrupted command.

    Args:
        output: The output of the command.

    Returns:
        A sentence; empty if there is no unfinished work.
    """
    folder = None if output is None else unfinished_work(output)
    if folder is None or not exists(folder):
        return ""
    return f"Unfinished work is in {folder}; run the same command again to continue"


def print_recipe_result(result: RecipeResult, *, full: bool, as_json: bool, quiet: bool) -> None:
    """Print the report of an alignment or merge, and the files that were written.

    Args:
        result: The result.
        full: Whether to list every group.
        as_json: Whether to print JSON instead of text.
        quiet: The option `--quiet`.
    """
    if as_json:
        click.echo(json.dumps({**result.found.as_json(), "files": [str(path) for path in result.files]}, indent=2))
    elif not quiet:
        click.echo(result.found.report(full=full, width=terminal_width()))
        print_files(result.files)


def print_files(files: tuple[Path, ...]) -> None:
    """Print the paths of written files.

    Args:
        files: The files.
    """
    for path in files:
        click.echo(f"written: {path}")
