"""From a document to a validated configuration, with every problem named by file, line and nearest name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from rebasin_core.config.base import StrategyConfig
from rebasin_core.errors import ConfigError, RebasinError, nearest
from rebasin_core.strategy import REWORDED, Strategy

if TYPE_CHECKING:
    from rebasin_core.config.document import Document, Location

Lookup: TypeAlias = Callable[[str, str], type[Any]]
"""Gives the configuration class of a family and a name, or raises UnknownNameError."""

M = TypeVar("M", bound=BaseModel)


def read_config(model: type[M], document: Document, lookup: Lookup) -> M:
    """Return the configuration that a document holds.

    Fields that stand for a strategy are given as a name, or as a mapping with ``name`` and options.

    Args:
        model: The configuration class of the whole document.
        document: The document.
        lookup: Finds the configuration classes of strategies.

    Returns:
        The configuration.

    Raises:
        ConfigError: With all problems, each on its line.
    """
    reader = _Reader(document, lookup)
    result = reader.read(model, document.content, ())
    if result is None or reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return result


def parse_strategy(family: str, value: object, lookup: Lookup, *, source: str = "options") -> StrategyConfig:
    """Return the configuration of one strategy from a name, or from a mapping with ``name`` and options.

    Args:
        family: The family.
        value: A name or a mapping.
        lookup: Finds the configuration class.
        source: What the value is, for messages.

    Returns:
        The configuration.

    Raises:
        ConfigError: If options are unknown or out of range.
        UnknownNameError: If there is no such strategy.
    """
    from rebasin_core.config.document import Document  # ruff: ignore[import-outside-top-level] - the only need of YAML here

    options = {"name": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        message = f"expected the name of a {family}, or a mapping with `name` and options, got {value!r}"
        raise ConfigError(message)
    found = lookup(family, options["name"])
    reader = _Reader(Document(source, options, {}), lookup)
    result = reader.read(found, options, ())
    if result is None or reader.problems:
        raise ConfigError("\n".join(problem.replace(f"{source}:1", source) for problem in reader.problems))
    return result  # type: ignore[no-any-return] # of a class that the lookup returned


@dataclass
class _Reader:
    """Walks a document along the fields of a model, and collects problems."""

    document: Document
    lookup: Lookup
    problems: list[str] = field(default_factory=list)

    def read(self, model: type[M], content: object, location: Location) -> M | None:
        """Return the validated model, or None after noting why there is none."""
        if not isinstance(content, Mapping):
            self._note(location, f"expected a mapping with keys {sorted(model.model_fields)}, got {content!r}")
            return None
        values: dict[str, Any] = {}
        broken: set[str] = set()
        for key, value in content.items():
            info, before = model.model_fields.get(str(key)), len(self.problems)
            read = value if info is None else self._nested(info.annotation, value, (*location, str(key)))
            if len(self.problems) == before:
                values[str(key)] = read
            else:
                broken.add(str(key))
        # Broken parts are told already; what is left is checked without them, so that all is told at once.
        result = self._validate(model, values, location, told=broken)
        return None if broken else result

    def _validate(self, model: type[M], values: Mapping[str, Any], location: Location, *, told: set[str]) -> M | None:
        try:
            return model.model_validate(dict(values), context={"lookup": self.lookup})
        except ValidationError as error:
            for problem in error.errors():
                place = tuple(problem["loc"])
                if not (place and place[0] in told):
                    self._note((*location, *place), _sentence(model, dict(problem)))
            return None

    def _nested(self, annotation: Any, value: Any, location: Location) -> Any:  # ruff: ignore[any-type] - any field, any value
        """Return a value with the strategies and models in it already read."""
        inner = [part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if not inner or value is None:
            return value
        if isinstance(value, list):
            return tuple(self._nested(annotation, item, (*location, index)) for index, item in enumerate(value))
        if issubclass(inner[0], Strategy):
            return value  # validated with the names that the context knows
        if issubclass(inner[0], StrategyConfig):
            return self._strategy(inner[0].family, value, location)
        return self.read(inner[0], value, location)

    def _strategy(self, family: str, value: object, location: Location) -> StrategyConfig | None:
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
            self._note(
                location, f"expected the name of a {family}, or a mapping with `name` and options, got {value!r}"
            )
            return None
        try:
            found = self.lookup(family, options["name"])
        except RebasinError as error:
            self._note((*location, "name"), str(error))
            return None
        return self.read(found, options, location)

    def _note(self, location: Location, sentence: str) -> None:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
        self.problems.append(f"{self.document.where(location)}: {place + ': ' if place else ''}{sentence}")


def _parts(annotation: Any) -> list[Any]:  # ruff: ignore[any-type] - any annotation
    """Return the types in an annotation, unions and containers opened."""
    arguments = get_args(annotation)
    return [annotation] if not arguments else [part for argument in arguments for part in _parts(argument)]


def _sentence(model: type[BaseModel], problem: dict[str, Any]) -> str:
    """Return a pydantic problem in the words of this project."""
    if problem["type"] == "extra_forbidden":
        return f"unknown key; {nearest(str(problem['loc'][-1]), model.model_fields)}"
    if problem["type"] == "missing":
        return "is missing"
    text = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    if problem["type"] == REWORDED or isinstance(given, Mapping | BaseModel) or "got " in text:
        return text
    return f"{text[:1].lower()}{text[1:]}, got {given!r}"
