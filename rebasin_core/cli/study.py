"""The command `rebasin study`: show the plan of a study, and compute it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rebasin_core.cli.guard import ExitCode, on_interrupt

if TYPE_CHECKING:
    from rebasin_core.executors.base import Executor
    from rebasin_core.studies.engine.observer import Outcome
    from rebasin_core.studies.study import Forecast, Study

_MAX_FAILURES = 10
STORE = click.option("--store", help="Folder or address of the store (default: REBASIN_STORE, or rebasin-store).")
"""Option of the commands that use the store of a study."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@STORE
@click.option("--dry-run", is_flag=True, help="Show the plan only.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only cells whose label matches, as `*width=64*`.")
@click.option("--workers", type=click.IntRange(min=1), help="Compute in this number of processes of this machine.")
@click.option("--device", help="Device of the workers: auto, cpu, cuda, ... Overrides the study file.")
@click.option("--retry-failed", is_flag=True, help="Try stages again that failed in an earlier command.")
@click.option(
    "--progress/--no-progress",
    default=True,
    help="Show progress: a bar in a terminal, otherwise a line for each stage.",
)
def study(  # ruff: ignore[too-many-arguments, too-many-positional-arguments] - one for each option
    file: Path,
    store: str | None,
    only: tuple[str, ...],
    workers: int | None,
    device: str | None,
    progress: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    *,
    dry_run: bool,
    retry_failed: bool,
) -> None:
    """Compute the study described in FILE.

    FILE (YAML or JSON) has a base run, its variations, seeds, and the pairs to compare. The command prints the plan and
    an estimate of the time, from stored results of similar stages, and computes the results that are not stored. Run it
    again to finish a study that was interrupted; commands on several machines share the work. `rebasin results FILE`
    prints the results. The exit code is 1 if a stage failed.
    \f

    Raises:
        SystemExit: If a stage failed.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.executors.processes import ProcessesExecutor
    from rebasin_core.studies.study import Study, load_study

    plan = Study(load_study(file), store, name=str(file.absolute()), only=only)
    executor = plan.config.executor if workers is None else ProcessesExecutor(workers=workers)
    forecast = plan.forecast(executor)
    _print_forecast(plan, forecast, executor)
    if dry_run or not forecast.needed:
        return

    def kept() -> str:
        return f"Finished stages are in the store {plan.store.address}; run the same command again to continue"

    with on_interrupt(kept):
        outcome = plan.run(executor=executor, device=device, retry_failed=retry_failed, progress=progress)
    _print_outcome(outcome)
    if outcome.failures or outcome.unfinished:
        raise SystemExit(ExitCode.FAILED)


def _print_forecast(plan: Study, forecast: Forecast, executor: Executor) -> None:
    click.echo(f"{len(plan.plan.cells)} cells, {sum(forecast.total.values())} stages; store {plan.store.address}\n")
    click.echo(f"{'stage':<10}{'stored':>10}{'to compute':>12}")
    for kind, total in forecast.total.items():
        needed = forecast.needed.get(kind, 0)
        click.echo(f"{kind:<10}{total - needed:>10}{needed:>12}")
    click.echo()
    if not forecast.needed:
        click.echo("All results are stored.")
        return
    workers = f"{forecast.workers} task{'s' if forecast.workers > 1 else ''} at a time ({executor.name})"
    if forecast.seconds:
        text = f"About {_duration(forecast.seconds)} of work, {_duration(forecast.seconds / forecast.workers)} with"
    else:
        text = "The duration is unknown;"
    unknown = f"; not included: {', '.join(forecast.unknown)}" if forecast.seconds and forecast.unknown else ""
    click.echo(f"{text} {workers}{unknown}.")


def _print_outcome(outcome: Outcome) -> None:
    click.echo(f"Computed {len(outcome.computed)} stages in {_duration(outcome.seconds)}.")
    if outcome.unfinished:
        click.echo(
            f"{outcome.unfinished} stages remain, since all workers are occupied by stages that exceeded the timeout "
            "and cannot be stopped. Kill them, and run the same command again.",
            err=True,
        )
    for failure in list(outcome.failures.values())[:_MAX_FAILURES]:
        click.echo(f"failed: {failure}", err=True)
    if outcome.failures:
        blocked = (
            f", and {len(outcome.blocked)} stages that depend on them were not computed" if outcome.blocked else ""
        )
        click.echo(
            f"{len(outcome.failures)} stages failed{blocked}. `rebasin store log ID` prints the log of a stage. Stages "
            "that failed for a passing reason are tried again by the same command, others with --retry-failed.",
            err=True,
        )


def _duration(seconds: float) -> str:
    """Return a duration in the largest unit in which it is at least 1."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
