"""Forms in which study files give seeds, levels, pairs and components, and checks of levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler

from rebasin_core.config.overrides import Overrides, overridden
from rebasin_core.config.run import RunConfig
from rebasin_core.errors import ConfigError
from rebasin_core.problems import custom_error, messages, problem_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, InitErrorDetails

_BY_KEY = {True: "true", False: "false", None: "null"}


def as_seeds(value: object) -> object:
    """Return the seeds 1, 2, ..., n for a number n."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value < 1:
        message = f"expected a number of seeds of at least 1, or a list of seeds, got {value}"
        raise custom_error(message)
    return list(range(1, value + 1))


def as_levels(value: object) -> object:
    """Return levels by name, each a set of overrides; an empty level has no overrides."""
    if not isinstance(value, Mapping):
        message = f"expected levels by name, each a mapping of overrides, got {value!r}"
        raise custom_error(message)
    # YAML reads `true`, `false` and `null` as values; as names they are texts.
    named = {_BY_KEY[name] if name is None or isinstance(name, bool) else name: part for name, part in value.items()}
    for name, part in named.items():
        if part is not None and not isinstance(part, Mapping):
            raise problem_at((str(name),), f"expected a mapping of overrides such as `batch_size: 64`, got {part!r}")
    return {name: {} if part is None else part for name, part in named.items()}


def as_factor(value: object) -> object:
    """Return a list of values, or levels by name."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return as_levels(value)
    message = f"expected a list of values, or levels by name, each a mapping of overrides, got {value!r}"
    raise custom_error(message)


def as_pairs(value: object) -> object:
    """Return the value if it has one of the forms in which pairs are given."""
    if isinstance(value, str) and value in {"all", "none"}:
        return value
    if isinstance(value, Mapping) and "against" in value and len(value) == 1:
        return value
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return value
    message = f"expected `all`, `none`, `{{against: NAME}}`, or a list of pairs `[reference, candidate]`, got {value!r}"
    raise custom_error(message)


def by_name(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Return components by label from a mapping, or from a list, whose names are the labels."""
    if not isinstance(value, list | tuple):
        return handler(value)
    found: dict[str, object] = {}
    for index, item in enumerate(value):
        name = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", item)
        if not isinstance(name, str):
            raise problem_at((index,), f"expected the name of a component, or a mapping with `name`, got {item!r}")
        if name in found:
            message = f"expected components of different names, got {name!r} twice; use a mapping with labels"
            raise custom_error(message)
        found[name] = item
    try:
        return handler(found)
    except ValidationError as error:
        # The keys of the file are the indices.
        names = list(found)
        problems: list[InitErrorDetails] = [
            {
                "type": custom_error(problem["msg"]),
                "loc": (names.index(str(problem["loc"][0])), *problem["loc"][1:]) if problem["loc"] else (),
                "input": problem["input"],
            }
            for problem in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, problems) from None


def problems_of_level(
    base: Any,  # ruff: ignore[any-type] - JSON
    overrides: Overrides,
    others: Overrides,
    locate: Callable[[str], tuple[str | int, ...]],
    lookup: Any,  # ruff: ignore[any-type] - `Lookup`, or None
) -> list[Any]:
    """Return the problems of a level, each at the override that causes it.

    Args:
        base: Options of the base, as plain JSON.
        overrides: Overrides of the level.
        others: Overrides of a level of each other factor. A level that is valid together with them has no problems,
            for example options of a component that another factor selects.
        locate: Returns the location of an override in the study file; of the level, for the empty name.
        lookup: Finds components by name; if None, among the installed plugins.

    Returns:
        Problems as for pydantic.
    """
    found = _problems(base, overrides, locate, lookup)
    return found if found and _problems(base, {**others, **overrides}, locate, lookup) else []


def _problems(
    base: Any,  # ruff: ignore[any-type] - JSON
    overrides: Overrides,
    locate: Callable[[str], tuple[str | int, ...]],
    lookup: Any,  # ruff: ignore[any-type] - `Lookup`, or None
) -> list[Any]:
    try:
        RunConfig.model_validate(overridden(base, overrides), context={"lookup": lookup})
    except ConfigError as error:
        name = next((name for name in overrides if str(error).startswith(f"{name}: ")), "")
        sentence = str(error).removeprefix(f"{name}: ")
        return [{"type": custom_error(sentence), "loc": locate(name), "input": None}]
    except ValidationError as error:
        pairs = zip(error.errors(), messages(error.errors()), strict=True)
        return [_at_override(problem, sentence, overrides, locate) for problem, sentence in pairs]
    return []


def _at_override(
    problem: ErrorDetails, sentence: str, overrides: Overrides, locate: Callable[[str], tuple[str | int, ...]]
) -> InitErrorDetails:
    """Return a problem of a run at the override that contains its location, or else at the level."""
    parts = [str(part) for part in problem["loc"]]
    keys = [name.split(".") for name in overrides]
    containing = [key for key in keys if parts[: len(key)] == key]
    if not containing:
        return {"type": custom_error(sentence), "loc": locate(""), "input": problem["input"]}
    key = max(containing, key=len)
    location = (*locate(".".join(key)), *problem["loc"][len(key) :])
    return {"type": custom_error(problem["msg"]), "loc": location, "input": problem["input"]}
