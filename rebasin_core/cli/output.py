"""Text output of the commands."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.report.table import alignment_notes, barrier_notes, barrier_table, best_alignment, error_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.plugin.registry import Registry
    from rebasin_core.studies.execution import RunResult
    from rebasin_core.testing.kit import Verdict


def terminal_width() -> int | None:
    """Return the width of the terminal.

    Returns:
        The number of characters per line (``COLUMNS`` overrides it); None if the output is a file or a pipe.
    """
    return shutil.get_terminal_size((0, 0)).columns or None


def print_result(result: RunResult) -> None:
    """Print a run's barriers, the reduction by alignment, and the paths of the results.

    Args:
        result: The result of the run.
    """
    for split, curves in result.curves.items():
        click.echo(f"\nLoss barrier on the {split} data ({result.device})\n")
        means = {label: curve.height for label, curve in result.means.get(split, {}).items()}
        click.echo(barrier_table(curves, result.distances, means, width=terminal_width()))
        best, before, after = best_alignment(curves)
        unit = f" {curves[best].unit}" if curves[best].unit else ""
        click.echo()
        for line in alignment_notes(curves):
            click.echo(line)
        error = error_name(curves[best])
        click.echo(f"\nLowest barrier: `{best}`, from {before} (unaligned) to {after}{unit} (±: {error}).")
        for note in barrier_notes(curves):
            click.echo(f"Note: {note}")
    click.echo(f"\nResults are in {result.folder}; open {result.folder / 'report.html'}")


def print_plugins(registry: Registry) -> bool:
    """Print every plugin with its components, or the error that excluded it.

    Args:
        registry: The registry.

    Returns:
        Whether a plugin is broken, or a name is registered twice.
    """
    entries = registry.all()
    for status in registry.plugins:
        click.echo(f"{status.label}")
        if status.error is not None:
            click.echo(f"  BROKEN: {status.error}")
        for family in HOOKS:
            names = sorted(e.name for e in entries if e.status is status and e.family == family)
            if names:
                click.echo(f"  {family:<18}{', '.join(names)}")
    twice = sorted({
        (e.family, e.name) for e in entries if sum((o.family, o.name) == (e.family, e.name) for o in entries) > 1
    })
    for family, name in twice:
        owners = [e.status.label for e in entries if (e.family, e.name) == (family, name)]
        click.echo(f"CONFLICT: the {family} {name!r} is registered by {' and '.join(owners)}")
    return bool(twice) or any(status.error is not None for status in registry.plugins)


def print_checks(verdicts: Mapping[str, Verdict]) -> bool:
    """Print the results of the conformance kit.

    Args:
        verdicts: Result of each check.

    Returns:
        Whether any law is broken.
    """
    marks = {"holds": "ok    ", "broken": "BROKEN", "exempt": "exempt"}
    for name, verdict in verdicts.items():
        click.echo(f"{marks[verdict.outcome]}  {name}{': ' + verdict.reason if verdict.reason else ''}")
    counts = {outcome: sum(v.outcome == outcome for v in verdicts.values()) for outcome in marks}
    click.echo(f"\n{counts['holds']} laws hold, {counts['broken']} are broken, {counts['exempt']} are exempted")
    return counts["broken"] > 0
