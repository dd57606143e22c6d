"""The command `rebasin spec`: derive, print, check and save a specification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rebasin_core.api.tracing import trace_spec
from rebasin_core.cli.guard import ExitCode
from rebasin_core.cli.output import terminal_width
from rebasin_core.cli.sources import load_model
from rebasin_core.cli.targets import require_free
from rebasin_core.report.width import wrapped_table
from rebasin_core.specs.check import check_spec
from rebasin_core.specs.files import save_spec
from rebasin_core.tensors.input_texts import parse_input, parse_named_inputs

if TYPE_CHECKING:
    from rebasin_core.specs.tracing.capture import Method
    from rebasin_core.specs.tracing.trace import TracedSpec


@click.command()
@click.argument("factory")
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    help="Shape of a positional input: 2,3,224,224 or 2,16:int<1000. Repeat for each input.",
)
@click.option(
    "--kwarg", "-k", "named", multiple=True, help="Shape of a keyword input: input_ids=2,16:int<1000. Repeatable."
)
@click.option("--freeze", multiple=True, help="Glob pattern of parameters and buffers to keep fixed. Repeatable.")
@click.option(
    "--free",
    multiple=True,
    help="Glob pattern of buffers to permute with the parameters, such as '*_mask'. Repeatable.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "export", "execution"]),
    default="auto",
    show_default=True,
    help="`export`: torch.export; `execution`: record one forward pass (for data-dependent control flow); `auto`: "
    "`execution` where `export` fails or fixes more axes.",
)
@click.option("--meta", is_flag=True, help="Make the model on the meta device: no memory is allocated, no check.")
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Verify that permutations preserve the outputs."
)
@click.option("--allow-untested", is_flag=True, help="Accept tensors that do not measurably influence the outputs.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Output file for the specification (JSON).")
def spec(  # ruff: ignore[too-many-arguments,too-many-positional-arguments] - click passes one an option
    factory: str,
    inputs: tuple[str, ...],
    named: tuple[str, ...],
    freeze: tuple[str, ...],
    free: tuple[str, ...],
    method: Method,
    meta: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    check: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
    allow_untested: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
    force: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
    output: Path | None,
) -> None:
    """Derive and verify a model's permutation symmetries.

    FACTORY is package.module:name, a function or class that is called without arguments and returns the model. Prints
    the axes of each parameter and buffer, the groups, the fixed axes with reasons, and the result of the check. The
    check compares the model's outputs under random permutations. If it fails, or a permuted tensor could not be tested,
    no file is written.
    \f

    Raises:
        SystemExit: If the check fails, or a permuted tensor could not be tested.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    if output is not None:
        require_free(output, [], force=force)
    model = load_model(factory, meta=meta)
    args = tuple(parse_input(text) for text in inputs)
    kwargs = parse_named_inputs(named)
    found = trace_spec(model, args, kwargs=kwargs, freeze=freeze, free=free, method=method)
    _print_spec(found)
    if check and not meta:
        result = check_spec(found, model, args, kwargs=kwargs)
        click.echo(f"\n{result}")
        if not (result.passed or (result.kept and allow_untested)):
            raise SystemExit(ExitCode.FAILED)
    if output is not None:
        save_spec(found, output)


def _print_spec(found: TracedSpec) -> None:
    layout = found.layout
    axes = layout.as_json()["axes"]
    rows = [[name, "x".join(map(str, layout.shape(name))), axes[name]] for name in layout.axes]
    click.echo(wrapped_table(rows, ["tensor", "shape", "axes"], width=terminal_width()))
    groups = [[group.name, str(group.size), group.within or ""] for group in layout.groups.values()]
    click.echo(f"\n{wrapped_table(groups, ['group', 'size', 'within'], width=terminal_width())}\n")
    click.echo(str(found.coverage))
