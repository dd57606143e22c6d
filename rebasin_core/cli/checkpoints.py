"""The commands on checkpoints: align, merge, and the barrier between two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import click

from rebasin_core.api.alignment import select_alignment
from rebasin_core.api.conversion import load_posterior
from rebasin_core.api.evaluation import barrier as measure
from rebasin_core.api.matching import match
from rebasin_core.api.merging import merge as merge_networks
from rebasin_core.api.merging import save_checkpoint
from rebasin_core.api.tracing import trace_spec
from rebasin_core.cli.data import load_data
from rebasin_core.cli.guard import leaving
from rebasin_core.cli.output import terminal_width
from rebasin_core.cli.sources import load_model, parse_input
from rebasin_core.cli.targets import require_free
from rebasin_core.errors import ConfigError
from rebasin_core.evaluation.task import Task
from rebasin_core.report.table import alignment_notes, barrier_table
from rebasin_core.specs.check import check_spec
from rebasin_core.specs.files import load_spec
from rebasin_core.tensors.files import require_writable
from rebasin_core.tensors.reading import exists

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from rebasin_core.api.merging import RepairName
    from rebasin_core.data.base import DataSplits
    from rebasin_core.data.examples import TensorBatches
    from rebasin_core.evaluation.effect import Keep
    from rebasin_core.specs.base import PermutationSpec

_SHARED = (
    click.option(
        "--input",
        "-i",
        "inputs",
        multiple=True,
        help="An input to trace the model with, and to check the symmetries on: 2,3,224,224 or 2,16:int<1000.",
    ),
    click.option("--spec", type=click.Path(path_type=Path), help="A specification file, instead of tracing."),
    click.option(
        "--check",
        type=click.Choice(["full", "kept", "none"]),
        default="full",
        show_default=True,
        help="What to verify before anything is written, on --input or --data: that the symmetries keep the function "
        "of the model and that every tensor matters to it, the first alone, or nothing.",
    ),
    click.option("--matcher", default="wasserstein", show_default=True, help="A registered matcher."),
    click.option(
        "--data",
        help="For matchers that need data, for repair, barriers, and to see whether an alignment helps: a registered "
        "data set; a mapping with its options, as in run files: '{name: mnist, mean: 0, deviation: 1}'; or "
        "package.module:function, which returns data sets or tensors.",
    ),
    click.option("--data-option", "-d", "options", multiple=True, help="key=value: an option of the data set."),
    click.option("--root", type=click.Path(path_type=Path), help="The folder of the data set."),
)
_KEEP = click.option(
    "--keep",
    type=click.Choice(["best", "aligned"]),
    default="best",
    show_default=True,
    help="With --data: keep the better of the alignment and none, by the loss at the midpoint, or the alignment.",
)
_FORCE = click.option("--force", is_flag=True, help="Replace an existing output file (never an input).")
_OUTPUT = click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The safetensors file.")
_NOT_MEASURED = (
    "the objective is that of the matcher; whether the loss between the networks is lower, --data would tell"
)
_GO_ON = "The best match so far is kept: run the same command again to go on from it,"
_CHECKPOINT = click.Path(path_type=Path)
# Examples of a data set on which symmetries are checked.
_EXAMPLES = 4

CheckLevel: TypeAlias = Literal["full", "kept", "none"]


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all of these have."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.command()
@click.argument("factory")
@click.argument("reference", type=_CHECKPOINT)
@click.argument("candidate", type=_CHECKPOINT)
@_shared
@_KEEP
@_FORCE
@_OUTPUT
def align(  # ruff: ignore[too-many-arguments,too-many-positional-arguments] - click passes one an option
    factory: str,
    reference: Path,
    candidate: Path,
    inputs: tuple[str, ...],
    spec: Path | None,
    check: CheckLevel,
    matcher: str,
    data: str | None,
    options: tuple[str, ...],
    root: Path | None,
    keep: Keep,
    force: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    output: Path,
) -> None:
    """Move the CANDIDATE checkpoint onto the REFERENCE, for the model that FACTORY makes; its function stays.

    FACTORY is package.module:factory, a function or class that needs no arguments. The symmetries are checked on the
    model first, traced or from a file; where they do not keep its function, nothing is written. Interrupted, the same
    command goes on from the best that was found. With --data, the loss at the midpoint is measured with and without
    alignment.
    """
    require_free(output, [reference, candidate], force=force)
    unfinished = output.with_name(f"{output.name}.unfinished")
    require_writable(unfinished)
    model = load_model(factory)
    splits = None if data is None else load_data(data, options, root)
    symmetries = _symmetries(model, inputs, spec, check, splits)
    first = load_posterior(reference, model=model)
    second = load_posterior(candidate, model=model)
    task = None if splits is None else _task(model, splits.train.batches(1000))
    with leaving(lambda: f"{_GO_ON} in {unfinished}" if exists(unfinished) else ""):
        result = match(
            first, second, symmetries, matcher, task=task, progress=sys.stderr.isatty(), checkpoint=unfinished
        )
    effect = None
    if task is not None:
        result, effect = select_alignment(result, first, second, task, keep)
    aligned = result.apply(second)
    if aligned.is_point:
        save_checkpoint(aligned, output)
    else:
        aligned.save(output)
    moved = sum(result.permutation.moved.values())
    click.echo(
        f"objective {result.identity_objective:.6g} -> {result.objective:.6g}, {moved} units moved in "
        f"{len(result.permutation.moved)} groups; {result.outcome.value}"
    )
    click.echo(str(effect) if effect is not None else _NOT_MEASURED)
    click.echo(f"written to {output}")


@click.command()
@click.argument("factory")
@click.argument("checkpoints", type=_CHECKPOINT, nargs=-1, required=True)
@_shared
@click.option("--no-align", is_flag=True, help="Average the checkpoints as they are.")
@click.option("--weight", "-w", "weights", multiple=True, type=float, help="One a checkpoint; equal if not given.")
@click.option("--repair", type=click.Choice(["reset", "repair"]), help="Statistics or activations, from --data.")
@_KEEP
@_FORCE
@_OUTPUT
def merge(  # ruff: ignore[too-many-arguments,too-many-positional-arguments] - click passes one an option
    factory: str,
    checkpoints: tuple[Path, ...],
    inputs: tuple[str, ...],
    spec: Path | None,
    check: CheckLevel,
    matcher: str,
    no_align: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    weights: tuple[float, ...],
    repair: RepairName | None,
    data: str | None,
    options: tuple[str, ...],
    root: Path | None,
    keep: Keep,
    force: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    output: Path,
) -> None:
    """Align CHECKPOINTS with the first of them and write their average, for the model that FACTORY makes.

    The symmetries are checked on the model first; where they do not keep its function, nothing is written. With --data,
    the loss at the midpoint with the first is measured for each, with and without alignment.
    """
    require_free(output, checkpoints, force=force)
    model = load_model(factory)
    splits = None if data is None else load_data(data, options, root)
    task = None if splits is None else _task(model, splits.train.first(5000).batches(500))
    merged = merge_networks(
        [load_posterior(path, model=model) for path in checkpoints],
        _symmetries(model, inputs, spec, check, splits),
        matcher=None if no_align else matcher,
        weights=list(weights) or None,
        repair=repair,
        task=task,
        keep=keep,
    )
    save_checkpoint(merged.posterior, output)
    for path, effect in zip(checkpoints, merged.effects, strict=True):
        if effect is not None:
            click.echo(f"{path}: {effect}")
    click.echo(f"{len(checkpoints)} checkpoints merged; written to {output}")


@click.command()
@click.argument("factory")
@click.argument("reference", type=_CHECKPOINT)
@click.argument("candidate", type=_CHECKPOINT)
@_shared
@click.option("--points", default=11, show_default=True, help="Places on the path, ends included: odd.")
def barrier(  # ruff: ignore[too-many-arguments,too-many-positional-arguments] - click passes one an option
    factory: str,
    reference: Path,
    candidate: Path,
    inputs: tuple[str, ...],
    spec: Path | None,
    check: CheckLevel,
    matcher: str,
    data: str | None,
    options: tuple[str, ...],
    root: Path | None,
    points: int,
) -> None:
    """Print the loss barrier between two checkpoints, unaligned and aligned, on the test data of --data.

    \f

    Raises:
        ConfigError: If no data set is named.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows what stands before the form feed
    if data is None:
        message = "a barrier is measured on data: name a data set with --data, and its folder with --root"
        raise ConfigError(message)
    model = load_model(factory)
    splits = load_data(data, options, root)
    symmetries = _symmetries(model, inputs, spec, check, splits)
    first = load_posterior(reference, model=model)
    second = load_posterior(candidate, model=model)
    test = splits.test.batches(1000)
    train = splits.train.first(5000).batches(1000)
    task = _task(model, test, calibration=train)
    aligned = match(first, second, symmetries, matcher, task=task).apply(second)
    curves = {
        label: measure(first, other, task, num_points=points)
        for label, other in (("unaligned", second), (matcher, aligned))
    }
    click.echo(barrier_table(curves, {}, width=terminal_width()))
    for note in alignment_notes(curves):
        click.echo(note)


def _symmetries(
    model: nn.Module, inputs: tuple[str, ...], spec: Path | None, check: CheckLevel, splits: DataSplits | None
) -> PermutationSpec:
    """Return the symmetries of the model, traced or from a file, checked unless they shall be trusted."""
    if spec is None and not inputs:
        message = "give either --input, to trace the model with, or --spec, a specification file"
        raise ConfigError(message)
    example: object = tuple(parse_input(text) for text in inputs)
    if not inputs and check != "none":
        example = _examples(splits)
    found = trace_spec(model, example) if spec is None else load_spec(spec)
    if check != "none":
        check_spec(found, model, example).require(allow_untested=check == "kept")
    return found


def _examples(splits: DataSplits | None) -> Tensor:
    """Return the inputs on which a specification from a file is checked, where none are given."""
    if splits is None:
        message = (
            "a specification from a file is checked before it is used: give --input or --data, on which the model is "
            "run, or --check none, to trust the file"
        )
        raise ConfigError(message)
    return splits.test.inputs[:_EXAMPLES]


def _task(model: nn.Module, batches: TensorBatches, *, calibration: TensorBatches | None = None) -> Task:
    """Return a task on data: floating targets are numbers, with the default noise of `gaussian`, others are classes."""
    held = list(batches)
    numbers = held[0][1].is_floating_point()
    return Task(model, held, "gaussian" if numbers else "categorical", calibration)
