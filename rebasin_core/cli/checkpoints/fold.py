"""The command `rebasin fold`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, model_option, name_options, shared, size_of
from rebasin_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NOT_WITH_UNDO = ("spec", "freeze", "untie", "shifts", "center")


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("--scales/--no-scales", default=True, show_default=True, help="Fold scales into the next weights.")
@click.option("--shifts/--no-shifts", default=False, show_default=True, help="Fold shifts into the next biases.")
@click.option(
    "--center/--no-center", default=False, show_default=True, help="Subtract means that layer normalizations remove."
)
@click.option(
    "--untie",
    is_flag=True,
    help="First make tied weights separate tensors; in folders, set tie_word_embeddings to false.",
)
@click.option("--undo", type=PATH, help="Reverse the folding in this file, which is next to a folded output.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compare the outputs of the model before and after; write no output if they differ.",
)
@shared("model", "names", "output")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Print no report and no progress bars.")
def fold(checkpoint: Path, undo: Path | None, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Fold the normalizations of CHECKPOINT into its weights.

    The output computes the same function, with scales of one and shifts of zero where that is possible; residual
    streams then admit rotations. The report lists the tensors that were kept, with reasons. The map is written next to
    the output; --undo reverses it, also for networks that were aligned with the output.
    """
    import torch

    from rebasin_core.api.checkpoints.folding import fold_checkpoint, unfold_checkpoint
    from rebasin_core.api.checkpoints.recipes import opened_entries
    from rebasin_core.checkpoints.naming import NamePolicy
    from rebasin_core.cli.checkpoints.output import show_progress

    source = opened_entries([checkpoint], given["entry"])[0]
    names = NamePolicy(**name_options(given))
    output: dict[str, Any] = {
        "force": given["force"],
        "dtype": None if given["dtype"] is None else getattr(torch, given["dtype"]),
        "max_shard_bytes": size_of(given["max_shard"], "--max-shard"),
    }
    if undo is not None:
        _require_undo_only(given)
        files = unfold_checkpoint(undo, source, given["output"], model=model_option(given), names=names, **output)
        _print({}, "", files, given)
        return
    found = fold_checkpoint(
        source,
        model=model_option(given),
        names=names,
        **{name: given[name] for name in ("spec", "freeze", "scales", "shifts", "center", "untie", "check")},
    )
    files = found.write(given["output"], progress=show_progress(quiet=given["quiet"]), **output)
    rounded = "" if found.rounded is None else f"\nrounded to the dtypes of the file: {found.rounded}"
    _print(found.report.as_json(), f"{found.report}{rounded}", files, given)


def _require_undo_only(given: Mapping[str, Any]) -> None:
    """Raise if options for folding are given together with --undo."""
    unused = [name for name in _NOT_WITH_UNDO if given[name]]
    if unused:
        message = f"--{unused[0]} cannot be given with --undo, which reverses all parts of a folding"
        raise ConfigError(message)


def _print(document: Mapping[str, Any], report: str, files: tuple[Path, ...], given: Mapping[str, Any]) -> None:
    from rebasin_core.cli.checkpoints.output import print_files

    if given["as_json"]:
        click.echo(json.dumps({**document, "files": [str(path) for path in files]}, indent=2))
    elif not given["quiet"]:
        if report:
            click.echo(report)
        print_files(files)
