"""Options that the commands for checkpoints share, and the values made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rebasin_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.strategy import Options

Config = TypeVar("Config", bound="Options")

PATH = click.Path(path_type=Path)

_MODEL = (
    click.option(
        "--model",
        "-m",
        help="Source of the model: package.module:name of a function or class that is called without arguments, or a "
        "registered name. If not given, the model of the config.json next to the weights.",
    ),
    click.option(
        "--input",
        "-i",
        "inputs",
        multiple=True,
        help="Shape of a positional input of --model: 2,3,224,224 or 2,16:int<1000. Repeat for each input.",
    ),
    click.option(
        "--kwarg", "-k", "named", multiple=True, help="Shape of a keyword input: input_ids=2,16:int<1000. Repeatable."
    ),
    click.option("--spec", type=PATH, help="Specification file (JSON); traced from the model if not given."),
    click.option("--freeze", multiple=True, help="Glob pattern of tensors to keep fixed. Repeatable."),
)
_NAMES = (
    click.option("--strict", is_flag=True, help="Require the names of the model in the files."),
    click.option("--prefix", help="Prefix of the names in files with several networks, such as `student.`."),
    click.option("--entry", help="Nested state dict of files that contain several, such as `ema`."),
    click.option(
        "--extra",
        type=click.Choice(["keep", "skip", "error"]),
        help="Tensors that the model does not have: copied to the output (default), omitted, or an error.",
    ),
    click.option("--missing", type=click.Choice(["error", "skip"]), help="Tensors that a file does not have."),
    click.option(
        "--resized",
        type=click.Choice(["error", "keep"]),
        help="Embeddings and heads of other vocabularies or numbers of classes. `keep`: compare only rows that both "
        "files have, by token or label if the folders contain them, and keep each file's other rows.",
    ),
)
_MATCHING = (
    click.option(
        "--matcher",
        default="weight",
        show_default=True,
        help="Matcher: a registered name, or a mapping such as '{name: weight, max_sweeps: 20}'.",
    ),
    click.option(
        "--check/--no-check",
        default=True,
        show_default=True,
        help="Compare the outputs of the model before and after the permutation; write no output if they differ.",
    ),
    click.option(
        "--chance/--no-chance",
        default=True,
        show_default=True,
        help="Align also with a shuffled copy of the reference, to compare with chance. Doubles the time.",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of the matcher and of the shuffled copy."),
    click.option("--memory", help="Maximum memory in addition to mapped files, and on --device, such as 8GB."),
)
_DEVICE = (
    click.option(
        "--device", default="cpu", show_default=True, help="Device of the computations: auto, cpu, cuda, cuda:1, ..."
    ),
)
_DATA = (
    click.option(
        "--data",
        help="Dataset, to evaluate the loss at the midpoint, and for matchers that need data: a registered name; a "
        "mapping as in run files, '{name: mnist, mean: 0, deviation: 1}'; or package.module:function.",
    ),
    click.option("--data-option", "-d", "options", multiple=True, help="Option of the dataset: key=value. Repeatable."),
    click.option("--root", type=PATH, help="Folder of the dataset."),
    click.option(
        "--keep",
        type=click.Choice(["best", "aligned"]),
        default="best",
        show_default=True,
        help="With --data. `best`: reject an alignment that raises the loss at the midpoint, unless a network is no "
        "better than a constant prediction; `aligned`: never reject.",
    ),
)
_OUTPUT = (
    click.option("--output", "-o", type=PATH, required=True, help="Output: a file NAME.safetensors, or a folder."),
    click.option(
        "--dtype",
        type=click.Choice(["float64", "float32", "float16", "bfloat16"]),
        help="Dtype of the output (default: that of each tensor in the file).",
    ),
    click.option("--max-shard", default="5GB", show_default=True, help="Maximum size of a file in an output folder."),
    click.option("--force", is_flag=True, help="Replace an existing output (never an input)."),
)
_REPORT = (
    click.option("--full", is_flag=True, help="List every group in the report."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    click.option("--quiet", is_flag=True, help="Print no report and no progress bars."),
)


def shared(*groups: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds groups of options to a command.

    Args:
        *groups: Names among ``model``, ``names``, ``matching``, ``device``, ``data``, ``output`` and ``report``.

    Returns:
        The decorator. The command receives the options as keyword arguments.
    """
    known = {
        "model": _MODEL,
        "names": _NAMES,
        "matching": _MATCHING,
        "device": _DEVICE,
        "data": _DATA,
        "output": _OUTPUT,
        "report": _REPORT,
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed([option for group in groups for option in known[group]]):
            command = option(command)
        return command

    return decorate


def recipe(kind: type[Config], given: Mapping[str, Any], **values: object) -> Config:
    """Return the recipe that the options of a command describe.

    Args:
        kind: Class of the recipe.
        given: Options of the command line by the names of the parameters.
        **values: Further entries of the recipe.

    Returns:
        The recipe.

    Raises:
        ConfigError: If options are invalid; names them.
    """
    entries: dict[str, object] = {name: given[name] for name in kind.model_fields if given.get(name) is not None}
    entries |= {
        "model": model_option(given),
        "names": name_options(given),
        "matcher": strategy(given["matcher"], "--matcher"),
    }
    entries |= values
    return validated(kind, {name: value for name, value in entries.items() if value is not None})


def validated(kind: type[Config], entries: Mapping[str, object]) -> Config:
    """Validate the options of a command.

    Args:
        kind: Class of the options.
        entries: Entries by name.

    Returns:
        The options.

    Raises:
        ConfigError: If entries are invalid; lists all problems.
    """
    from pydantic import ValidationError

    from rebasin_core.plugin.registry import default_registry
    from rebasin_core.problems import messages

    try:
        return kind.model_validate(dict(entries), context={"lookup": default_registry().strategy_class})
    except ValidationError as error:
        problems = error.errors()
    names = [str(problem["loc"][0]) if problem["loc"] else "" for problem in problems]
    lines = [
        f"--{name.replace('_', '-')}: {text.removeprefix(f'{name}: ')}"
        for name, text in zip(names, messages(problems), strict=True)
    ]
    raise ConfigError("\n".join(lines))


def strategy(text: str, option: str) -> str | dict[str, Any]:
    """Return a component given as a name or as a mapping.

    Args:
        text: A name, or a mapping ``{name: ..., ...}``.
        option: The option, for messages.

    Returns:
        The name, or the mapping.

    Raises:
        ConfigError: If the mapping cannot be parsed.
    """
    from rebasin_core.config.document import Document

    if not text.lstrip().startswith("{"):
        return text
    content = Document.parse(text, option).content
    if not isinstance(content, Mapping):
        message = f"expected a name or a mapping such as {{name: weight}} for {option}, got {text!r}"
        raise ConfigError(message)
    return dict(content)


def model_option(given: Mapping[str, Any]) -> str | dict[str, Any] | None:
    """Return the source of the model.

    Args:
        given: Options of the command line.

    Returns:
        A registered name, or a mapping with ``name`` and options; None if not given.

    Raises:
        ConfigError: If inputs are given without a factory.
    """
    text, inputs, named = given["model"], given["inputs"], given["named"]
    if text is None or ":" not in text or text.lstrip().startswith("{"):
        if inputs or named:
            message = "--input and --kwarg are the inputs of a factory; give it as --model package.module:name"
            raise ConfigError(message)
        return None if text is None else strategy(text, "--model")
    pairs = dict(_pair(each) for each in named)
    return {"name": "factory", "factory": text, "inputs": list(inputs), "named_inputs": pairs}


def _pair(text: str) -> tuple[str, str]:
    name, equals, shape = text.partition("=")
    if not (name and equals and shape):
        message = f"expected NAME=SHAPE for --kwarg, such as input_ids=2,16:int<1000, got {text!r}"
        raise ConfigError(message)
    return name, shape


def size_of(text: str, option: str) -> int:
    """Return a number of bytes.

    Args:
        text: A size such as ``8GB``.
        option: The option, for messages.

    Returns:
        The number of bytes.

    Raises:
        ConfigError: If the text is no size.
    """
    from rebasin_core.config.recipe import as_bytes

    try:
        found = int(str(as_bytes(text)))
    except ValueError as error:
        message = f"{option}: {error}"
        raise ConfigError(message) from error
    if found < 1:
        message = f"{option}: expected at least 1 byte, got {text!r}"
        raise ConfigError(message)
    return found


def name_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for names in files.

    Args:
        given: Options of the command line.

    Returns:
        Options of `NamePolicy`.
    """
    mode = "strict" if given["strict"] else "lenient"
    entries = {"mode": mode, **{name: given[name] for name in ("prefix", "extra", "missing", "resized")}}
    return {name: value for name, value in entries.items() if value is not None}
