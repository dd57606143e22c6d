"""The command `rebasin spec`: derive, print, check and save a specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import model_option, name_options, shared
from rebasin_core.cli.guard import ExitCode
from rebasin_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.tracing.trace import TracedSpec

_OF_CHECKPOINTS = ("model", "strict", "prefix", "entry", "extra", "missing", "resized")


@click.command()
@click.argument("source")
@click.option(
    "--model",
    "-m",
    help="Model of a checkpoint, as for `rebasin align`: package.module:name, or a registered name. If not given, the "
    "model of the config.json next to the weights.",
)
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
@click.option(
    "--allow-untested",
    is_flag=True,
    help="Accept tensors that do not measurably influence the outputs, and checkpoints whose outputs cannot be "
    "compared.",
)
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Output file for the specification (JSON).")
@click.option("--json", "as_json", is_flag=True, help="Print the specification as JSON, as in the output file.")
@shared("names")
def spec(source: str, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Derive and verify a model's permutation symmetries.

    SOURCE is package.module:name, a function or class that is called without arguments and returns the model; or a file
    or folder of a checkpoint, whose model is that of its configuration or of --model. Prints the axes of each parameter
    and buffer, the groups, the fixed axes with reasons, and the result of the check. The check compares the model's
    outputs under random permutations. If it fails, or a permuted tensor could not be tested, no file is written.

    For a checkpoint, the check compares the outputs of the network with those of one randomly permuted copy. Tensors
    are read when they are used. It does not search for tensors that do not influence the outputs.
    \f

    Raises:
        SystemExit: If the check fails, or a permuted tensor could not be tested.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.cli.targets import require_free
    from rebasin_core.specs.files import save_spec, spec_document
    from rebasin_core.tensors.reading import exists

    path = Path(source)
    is_checkpoint = exists(path) or ":" not in source
    if given["output"] is not None:
        require_free(given["output"], [path] if is_checkpoint else [], force=given["force"])
    found, check, is_accepted = _of_checkpoint(path, given) if is_checkpoint else _of_factory(source, given)
    if given["as_json"]:
        click.echo(json.dumps(spec_document(found), indent=2))
    else:
        _print_spec(found)
    if check:
        # Standard output is a JSON document only.
        click.echo(f"\n{check}", err=given["as_json"])
    if not is_accepted:
        raise SystemExit(ExitCode.FAILED)
    if given["output"] is not None:
        save_spec(found, given["output"])


def _of_factory(source: str, given: Mapping[str, Any]) -> tuple[TracedSpec, str, bool]:
    """Return the specification of a factory's model, the result of its check, and whether it is accepted."""
    from rebasin_core.api.tracing import trace_spec
    from rebasin_core.cli.sources import load_model
    from rebasin_core.specs.check import check_spec
    from rebasin_core.tensors.input_texts import parse_input, parse_named_inputs

    unused = [name for name in _OF_CHECKPOINTS if given[name]]
    if unused:
        message = f"--{unused[0]} is an option for checkpoints, and {source} is a factory; give the file or folder"
        raise ConfigError(message)
    model = load_model(source, meta=given["meta"])
    args = tuple(parse_input(text) for text in given["inputs"])
    kwargs = parse_named_inputs(given["named"])
    found = trace_spec(model, args, kwargs=kwargs, **_tracing(given))
    if not given["check"] or given["meta"]:
        return found, "", True
    result = check_spec(found, model, args, kwargs=kwargs)
    return found, str(result), result.passed or (result.kept and given["allow_untested"])


def _of_checkpoint(path: Path, given: Mapping[str, Any]) -> tuple[TracedSpec, str, bool]:
    """Return the specification of a checkpoint's model, the result of its check, and whether it is accepted."""
    from rebasin_core.api.checkpoints.recipes import opened_entries
    from rebasin_core.api.checkpoints.specification import spec_of_checkpoint
    from rebasin_core.checkpoints.naming import NamePolicy

    if given["meta"]:
        message = "--meta is an option for factories; no memory is allocated for the model of a checkpoint"
        raise ConfigError(message)
    found = spec_of_checkpoint(
        opened_entries([path], given["entry"])[0],
        model=model_option(given),
        names=NamePolicy(**name_options(given)),
        check=given["check"],
        **_tracing(given),
    )
    is_tested = found.check is None or not found.check.reason
    return found.spec, "" if found.check is None else str(found.check), is_tested or given["allow_untested"]


def _tracing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("freeze", "free", "method")}


def _print_spec(found: TracedSpec) -> None:
    from rebasin_core.cli.output import terminal_width
    from rebasin_core.report.width import wrapped_table
    from rebasin_core.symmetry.stack import members_of

    layout = found.layout
    axes = layout.as_json()["axes"]
    shapes = {name: layout.shape(members_of(layout.stacks, name)[0]) for name in layout.axes}
    rows = [[name, "x".join(map(str, shapes[name])), axes[name]] for name in layout.axes]
    click.echo(wrapped_table(rows, ["tensor", "shape", "axes"], width=terminal_width()))
    groups = [
        [
            group.name,
            str(group.size),
            group.within or "",
            f"{group.log10_order:.1f}",
            group.maps or "none",
            str(group.folded_dimension),
            group.limit.label if group.limit else "",
        ]
        for group in found.coverage.kinds
    ]
    names = ["group", "size", "within", "log10 of the order", "linear maps", "dimension", "limited by"]
    click.echo(f"\n{wrapped_table(groups, names, width=terminal_width())}\n")
    click.echo(str(found.coverage))
