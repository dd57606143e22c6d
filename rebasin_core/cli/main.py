"""The command line: one function a command, and one place where errors become sentences and exit codes."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rebasin_core.assignment import which_solver
from rebasin_core.cli.checkpoints import align, barrier, merge
from rebasin_core.cli.guard import ExitCode, guarded, leaving, say
from rebasin_core.cli.output import print_checks, print_plugins, print_result
from rebasin_core.cli.spec import spec
from rebasin_core.config.schema import run_schema
from rebasin_core.errors import RebasinWarning
from rebasin_core.plugin.registry import FAMILIES, default_registry
from rebasin_core.report.page import write_report
from rebasin_core.studies.execution import load_run
from rebasin_core.studies.execution import run as execute
from rebasin_core.studies.folder import CONFIG
from rebasin_core.studies.setting import choose_device

if TYPE_CHECKING:
    from rebasin_core.config.run import RunConfig

_OUTPUT = click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="The output folder; a run is resumed in its own folder."
)
_PROGRESS = click.option(
    "--progress/--no-progress", default=None, help="Whether to show progress bars (default: on a terminal)."
)
_DEVICE = click.option("--device", help="Overrides the run file: auto, cpu, cuda, cuda:1, ...")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rebasin-core", prog_name="rebasin")
def cli() -> None:
    """Align Bayesian neural networks modulo their symmetries, and measure the loss barrier that is left.

    Exit codes: 0 done; 1 a check failed, training diverged, memory did not suffice, or a plugin is broken; 2 something
    is wrong with what was given; 3 results cannot be written; 70 internal error; 130 interrupted.
    """


@cli.command()
@_OUTPUT
@_PROGRESS
@_DEVICE
def demo(output: Path | None, progress: bool | None, device: str | None) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    """Watch two Bayesian neural networks become linearly connected (about a minute, no download)."""
    config = load_run(Path(__file__).with_name("demo.yaml"))
    _execute(config, output or Path("rebasin-demo"), progress=progress, device=device)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@_OUTPUT
@_PROGRESS
@_DEVICE
def run(file: Path, output: Path | None, progress: bool | None, device: str | None) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
    """Do what a run FILE (YAML or JSON) says: train or load, align, measure.

    Results go to the output folder, runs/NAME of the file if none is given. Started again, finished stages are kept.
    """
    _execute(load_run(file), output or Path("runs") / file.stem, progress=progress, device=device)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Draw the figures of the run in FOLDER again, and write its report: one HTML file that opens offline."""
    click.echo(write_report(folder))


@cli.command()
def plugins() -> None:
    """List what is installed: every plugin, what it offers, what failed and why, and the assignment solver in use."""
    broken = print_plugins(default_registry())
    click.echo(f"assignment solver `auto` is {which_solver()}")
    if broken:
        raise SystemExit(ExitCode.FAILED)


@cli.command()
def schema() -> None:
    """Print the JSON schema of run files, with every installed strategy in it."""
    registry = default_registry()
    classes = {family: registry.classes(family) for family in FAMILIES}
    click.echo(json.dumps(run_schema(classes), indent=2))


@cli.command()
@click.argument("package")
@click.option("--device", default="cpu", show_default=True, help="Where the laws are tried: cpu, cuda, cuda:1, ...")
def check(package: str, device: str) -> None:
    """Run the conformance kit on everything that an installed PACKAGE registers."""
    from rebasin_core.testing.kit import run_checks  # ruff: ignore[import-outside-top-level] - the kit is needed here only

    if print_checks(run_checks(package, device=choose_device(device))):
        raise SystemExit(ExitCode.FAILED)


for command in (spec, align, merge, barrier):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every mistake of the user's becomes one sentence and an exit code."""
    warnings.showwarning = _show_warning
    sys.exit(guarded(lambda: cli.main(standalone_mode=False)))


def _execute(config: RunConfig, output: Path, *, progress: bool | None, device: str | None) -> None:
    if device is not None:
        config = config.model_copy(update={"device": device})

    def left() -> str:
        kept = f"Finished stages are kept in {output}: run the same command again to go on"
        return kept if (output / CONFIG).is_file() else ""

    with leaving(left):
        result = execute(config, output, progress=sys.stderr.isatty() if progress is None else progress)
        print_result(result, write_report(result.folder))


def _show_warning(  # ruff: ignore[too-many-positional-arguments] - the signature that `warnings` calls
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    del file, line
    where = "" if issubclass(category, RebasinWarning) else f" ({filename}:{lineno})"
    say(f"warning: {message}{where}")
