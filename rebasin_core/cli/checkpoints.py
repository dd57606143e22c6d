"""Commands for checkpoints: `rebasin align`, `merge` and `barrier`."""

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
from rebasin_core.cli.guard import on_interrupt
from rebasin_core.cli.output import terminal_width
from rebasin_core.cli.sources import load_model
from rebasin_core.cli.targets import require_free
from rebasin_core.errors import ConfigError
from rebasin_core.evaluation.task import Task
from rebasin_core.report.table import alignment_notes, barrier_table
from rebasin_core.specs.check import check_spec
from rebasin_core.specs.files import load_spec
from rebasin_core.tensors.files import require_writable
from rebasin_core.tensors.input_texts import parse_input
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
        help="Shape of a model input, for tracing and checking: 2,3,224,224 or 2,16:int<1000. Repeat for each input.",
    ),
    click.option("--spec", type=click.Path(path_type=Path), help="Specification file (JSON); traced if not given."),
    click.option(
        "--check",
        type=click.Choice(["full", "kept", "none"]),
        default="full",
        show_default=True,
        help="Check of the symmetries on --input or --data, before anything is written. `full`: they preserve the "
        "model's function, and every permuted tensor influences the outputs; `kept`: only the former; `none`: no "
        "check.",
    ),
    click.option("--matcher", default="wasserstein", show_default=True, help="Registered name of the matcher."),
    click.option(
        "--data",
        help="Dataset: a registered name; a mapping as in run files, '{name: mnist, mean: 0, deviation: 1}'; or "
        "package.module:function that returns datasets, data loaders or tensors. Used by matchers that need data, "
        "by --repair, for barriers, and to evaluate alignments.",
    ),
    click.option("--data-option", "-d", "options", multiple=True, help="Option of the dataset: key=value. Repeatable."),
    click.option("--root", type=click.Path(path_type=Path), help="Folder of the dataset."),
)
_KEEP = click.option(
    "--keep",
    type=click.Choice(["best", "aligned"]),
    default="best",
    show_default=True,
    help="With --data. `best`: reject an alignment that raises the loss at the midpoint, unless a network is no "
    "better than a constant prediction; `aligned`: never reject.",
)
_FORCE = click.option("--force", is_flag=True, help="Replace an existing output file (never an input).")
_OUTPUT = click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Output file (safetensors)."
)
_NOT_EVALUATED = "pass --data to evaluate the loss at the midpoint before and after alignment"
_CHECKPOINT = click.Path(path_type=Path)
# A permutation that changes the outputs is detected on a few examples.
_NUM_CHECK_EXAMPLES = 4

CheckLevel: TypeAlias = Literal["full", "kept", "none"]


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that all commands for checkpoints have."""
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
    """Permute CANDIDATE to match REFERENCE.

    The permuted checkpoint computes the same function as CANDIDATE. FACTORY is package.module:name, a function or class
    that is called without arguments and returns the model. The symmetries are checked first; if the check fails,
    nothing is written. With --data, the loss at the midpoint is printed before and after alignment. If interrupted, run
    the command again to resume from the best permutation found.
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
    with on_interrupt(lambda: _resumption(unfinished) if exists(unfinished) else ""):
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
    moved = result.permutation.moved
    click.echo(
        f"matching objective {result.identity_objective:.6g} (identity) -> {result.objective:.6g}; "
        f"{sum(moved.values())} units permuted, groups: {len(moved)}; {result.outcome.value}"
    )
    click.echo(str(effect) if effect is not None else _NOT_EVALUATED)
    click.echo(f"written to {output}")


@click.command()
@click.argument("factory")
@click.argument("checkpoints", type=_CHECKPOINT, nargs=-1, required=True)
@_shared
@click.option("--no-align", is_flag=True, help="Average the checkpoints without alignment.")
@click.option(
    "--weight",
    "-w",
    "weights",
    multiple=True,
    type=float,
    help="Weight of one checkpoint; repeat for each (default: equal).",
)
@click.option(
    "--repair",
    type=click.Choice(["reset", "repair"]),
    help="`reset`: recompute batch-normalization statistics; `repair`: REPAIR. Needs --data.",
)
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
    """Align CHECKPOINTS to the first and average them.

    FACTORY is package.module:name, a function or class that is called without arguments and returns the model. The
    symmetries are checked first; if the check fails, nothing is written. With --data, the loss at the midpoint with the
    first checkpoint is printed for each other checkpoint, before and after alignment.
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
@click.option("--points", default=11, show_default=True, help="Number of points on the path, endpoints included; odd.")
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
    """Print the loss barrier before and after alignment.

    REFERENCE and CANDIDATE are checkpoints of the model that FACTORY returns (package.module:name of a function or
    class that is called without arguments). The loss is evaluated on the test data of --data.

    \f

    Raises:
        ConfigError: If ``--data`` is missing.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    if data is None:
        message = "a barrier needs data; name a dataset with --data, and its folder with --root"
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
    """Return the symmetries of the model, traced or from a file, and checked according to ``--check``."""
    if spec is None and not inputs:
        message = "expected --input, to trace the model, or --spec, a specification file"
        raise ConfigError(message)
    example: object = tuple(parse_input(text) for text in inputs)
    if not inputs and check != "none":
        example = _examples(splits)
    found = trace_spec(model, example) if spec is None else load_spec(spec)
    if check != "none":
        check_spec(found, model, example).require(allow_untested=check == "kept")
    return found


def _examples(splits: DataSplits | None) -> Tensor:
    """Return inputs from the dataset, to check a specification from a file without ``--input``."""
    if splits is None:
        message = (
            "a specification from a file is checked before use; give --input or --data to run the model on, or "
            "--check none to skip the check"
        )
        raise ConfigError(message)
    return splits.test.inputs[:_NUM_CHECK_EXAMPLES]


def _task(model: nn.Module, batches: TensorBatches, *, calibration: TensorBatches | None = None) -> Task:
    """Return a task: regression (`gaussian`, default noise scale) for floating-point targets, else classification."""
    held = list(batches)
    is_regression = held[0][1].is_floating_point()
    return Task(model, held, "gaussian" if is_regression else "categorical", calibration)


def _resumption(unfinished: Path) -> str:
    return f"The best permutation so far is in {unfinished}; run the same command again to resume from it"
