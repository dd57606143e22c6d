"""The command `rebasin` and its subcommands.

Modules of commands declare arguments and help. They import the computation when a command runs: help, the version,
and completion in shells need no PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import shell_complete
from typing_extensions import override

from rebasin_core.cli import checkpoints
from rebasin_core.cli.guard import ExitCode, guarded, on_interrupt, print_error
from rebasin_core.cli.new import new
from rebasin_core.cli.results import results
from rebasin_core.cli.spec import spec
from rebasin_core.cli.store import store
from rebasin_core.cli.study import study
from rebasin_core.cli.wording import as_options
from rebasin_core.errors import RebasinError, RebasinWarning

if TYPE_CHECKING:
    from rebasin_core.config.run import RunConfig

# Set by the scripts for completion in shells, which click prints.
_COMPLETION = "_REBASIN_COMPLETE"
_OUTPUT = click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Output folder; an unfinished run in it is resumed."
)
_STORE = click.option("--store", help="Folder or address of the store (default: `store` in the output folder).")
_PROGRESS = click.option(
    "--progress/--no-progress",
    default=True,
    show_default=True,
    help="Show progress on standard error: bars in a terminal, otherwise a line for each stage and epoch.",
)
_NEXT = """
Next:
  rebasin new run.yaml                                  write a commented run file to edit; `rebasin run` runs it
  rebasin align REFERENCE CANDIDATE -m MODULE:FUNCTION -i SHAPE -o OUTPUT     align two checkpoints of your own
  rebasin --help                                        all commands; the tutorials are in docs/tutorials"""
_DEVICE = click.option("--device", help="Device: auto, cpu, cuda, cuda:1, ... Overrides the run file.")


# Their options are those of run files and study files, and so are the messages.
_WITH_FILES = {"demo", "run", "study", "results", "report", "recipe"}


class _Commands(click.Group):
    """Commands whose errors name options of the command line."""

    @override
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RebasinError as error:
            if ctx.invoked_subcommand not in _WITH_FILES:
                error.args = (as_options(str(error)), *error.args[1:])
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rebasin-core", prog_name="rebasin")
def cli() -> None:
    """Align neural networks and posteriors, and estimate loss barriers.

    Exit codes: 0 success; 1 failed check, diverged training, out of memory or broken plugin; 2 invalid input; 3 output
    not writable; 70 internal error; 130 interrupted.
    """


@cli.command()
@_OUTPUT
@_STORE
@_PROGRESS
@_DEVICE
def demo(output: Path | None, store: str | None, progress: bool, device: str | None) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    """Train, align and compare two small posteriors.

    Takes about a minute and downloads nothing. Results are written to rebasin-demo/, unless --output is given.
    """
    from rebasin_core.studies.execution import load_run

    config = load_run(Path(__file__).with_name("demo.yaml"))
    _execute(config, output or Path("rebasin-demo"), store, progress=progress, device=device)
    click.echo(_NEXT)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@_OUTPUT
@_STORE
@_PROGRESS
@_DEVICE
def run(file: Path, output: Path | None, store: str | None, progress: bool, device: str | None) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
    """Run the experiment described in FILE.

    FILE (YAML or JSON) describes two posteriors, to train or to load, and the matchers and barriers. Results are
    written to runs/NAME, where NAME is the name of FILE without its suffix, unless --output is given. Run the command
    again to resume: stored results are reused, and stages that depend on a changed option or file are computed again.
    """
    from rebasin_core.studies.execution import load_run

    _execute(load_run(file), output or Path("runs") / file.stem, store, progress=progress, device=device)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Redraw a run's figures and write report.html.

    FOLDER is the output folder of a finished run. The report is one HTML file that opens offline.
    """
    from rebasin_core.report.page import write_report

    click.echo(write_report(folder))


@cli.command()
def plugins() -> None:
    """List plugins, their components and loading errors.

    Also prints the assignment solver that `auto` selects. The exit code is 1 if a plugin is broken, or two plugins
    register the same name.
    \f

    Raises:
        SystemExit: If a plugin is broken, or two plugins register the same name.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.assignment import which_solver
    from rebasin_core.cli.output import print_plugins
    from rebasin_core.plugin.registry import default_registry

    broken = print_plugins(default_registry())
    click.echo(f"assignment solver `auto` is {which_solver()}")
    if broken:
        raise SystemExit(ExitCode.FAILED)


@cli.command()
@click.option("--study", "kind", flag_value="study", help="Print the schema of study files instead.")
@click.option("--recipe", "kind", flag_value="recipe", help="Print the schema of recipes instead.")
def schema(kind: str | None) -> None:
    """Print the JSON schema of run files, of study files, or of recipes for checkpoints.

    The schema includes the components of all installed plugins.
    """
    from rebasin_core.config.schema import recipe_schema, run_schema, study_schema
    from rebasin_core.plugin.registry import FAMILIES, default_registry

    registry = default_registry()
    classes = {family: registry.classes(family) for family in FAMILIES}
    found = {"study": study_schema, "recipe": recipe_schema}.get(kind or "", run_schema)(classes)
    click.echo(json.dumps(found, indent=2))


@cli.command()
@click.argument("package")
@click.option("--device", default="cpu", show_default=True, help="Device to run on: cpu, cuda, cuda:1, ...")
def check(package: str, device: str) -> None:
    """Run the conformance kit on PACKAGE.

    The kit tests all components that the installed PACKAGE registers. The exit code is 1 if a test fails.
    \f

    Raises:
        SystemExit: If a test fails.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.cli.output import print_checks
    from rebasin_core.tensors.device import choose_device
    from rebasin_core.testing.kit import run_checks

    if print_checks(run_checks(package, device=choose_device(device))):
        raise SystemExit(ExitCode.FAILED)


checkpoint_commands = [getattr(checkpoints, name) for name in checkpoints.__all__]
for command in (new, spec, *checkpoint_commands, study, results, store):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit; each error prints one message and sets the exit code."""
    warnings.showwarning = _show_warning
    completion = os.environ.get(_COMPLETION)
    if completion:
        sys.exit(guarded(lambda: shell_complete(cli, {}, "rebasin", _COMPLETION, completion)))
    sys.exit(guarded(lambda: cli.main(standalone_mode=False)))


def _execute(config: RunConfig, output: Path, store: str | None, *, progress: bool, device: str | None) -> None:
    from rebasin_core.cli.output import print_result
    from rebasin_core.studies.execution import run as execute
    from rebasin_core.studies.folder import RECORD

    if device is not None:
        config = config.model_copy(update={"device": device})

    def kept() -> str:
        text = f"Finished stages are in {output}; run the same command again to resume"
        return text if (output / RECORD).is_file() else ""

    with on_interrupt(kept):
        result = execute(config, output, store=store, report=True, progress=progress)
    print_result(result)


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
    print_error(f"warning: {message}{where}")
