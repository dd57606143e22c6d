"""The command `rebasin barrier`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, recipe, shared
from rebasin_core.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rebasin_core.api.checkpoints.alignment import CheckpointAlignment
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.data.base import DataSplits


@click.command()
@click.argument("reference", type=PATH)
@click.argument("candidate", type=PATH)
@click.option(
    "--points",
    type=click.IntRange(min=3),
    default=11,
    show_default=True,
    help="Number of points on the path, endpoints included; odd.",
)
@shared("model", "names", "matching", "device", "data", "report")
def barrier(reference: Path, candidate: Path, points: int, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Print the loss barrier between two checkpoints before and after alignment.

    The loss is evaluated on the test data of --data.

    \f

    Raises:
        ConfigError: If ``--data`` is missing.
        InvalidInputError: If the networks do not have the same tensors.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.cli.data import load_data

    if given["data"] is None:
        message = "a barrier needs data; name a dataset with --data, and its folder with --root"
        raise ConfigError(message)
    splits = load_data(given["data"], given["options"], given["root"])
    _print_barriers(_curves(reference, candidate, splits, points, given))


def _curves(
    reference: Path, candidate: Path, splits: DataSplits, points: int, given: Mapping[str, Any]
) -> Mapping[str, LossCurve]:
    """Return the losses on the paths without and with alignment."""
    from rebasin_core.api.checkpoints.alignment import align_checkpoints
    from rebasin_core.api.checkpoints.recipes import opened_entries
    from rebasin_core.api.evaluation import barrier as measure
    from rebasin_core.cli.checkpoints.data import task_on
    from rebasin_core.cli.checkpoints.output import show_progress
    from rebasin_core.config.recipe import AlignRecipe
    from rebasin_core.tensors.device import choose_device

    found = recipe(AlignRecipe, given, reference=reference, candidate=candidate)
    train = splits.train.first(5000).batches(1000)
    aligned = align_checkpoints(
        *opened_entries([reference, candidate], found.entry),
        model=found.model,
        spec=found.spec,
        matcher=found.matcher,
        names=found.names,
        freeze=found.freeze,
        check=found.check,
        chance=False,
        task=(lambda model: task_on(model, train)) if found.matcher.uses_task else None,
        keep="aligned",
        seed=found.seed,
        memory=found.memory,
        device=found.device,
        progress=show_progress(quiet=given["quiet"]),
    )
    _require_complete(aligned)
    task = task_on(aligned.module(), splits.test.batches(1000), calibration=train)
    device = choose_device(found.device)
    first = aligned.reference.posterior.to(device=device)
    second = aligned.candidate.posterior.to(device=device)
    label = found.matcher.name
    return {
        name: measure(first, other, task, num_points=points)
        for name, other in (("unaligned", second), (label, aligned.result.apply(second)))
    }


def _print_barriers(curves: Mapping[str, LossCurve]) -> None:
    from rebasin_core.cli.output import terminal_width
    from rebasin_core.report.table import alignment_notes, barrier_table

    click.echo(barrier_table(curves, {}, width=terminal_width()))
    for note in alignment_notes(curves):
        click.echo(note)


def _require_complete(aligned: CheckpointAlignment) -> None:
    """Raise if the networks have different vocabularies or tensors, between which there is no path."""
    from rebasin_core.tensors.reading import shown

    if not aligned.pair.is_complete:
        message = (
            f"{shown(aligned.candidate.checkpoint.path)} has missing tensors or another vocabulary than "
            f"{shown(aligned.reference.checkpoint.path)}; the loss on the path between them is not defined. Use "
            "`rebasin diff` to compare the rows that both have"
        )
        raise InvalidInputError(message)
