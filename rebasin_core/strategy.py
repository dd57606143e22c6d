"""Strategies: choices in a family (a matcher, a path, a likelihood, ...), each declared once.

The declaration of a strategy is a class with annotated attributes. It is the Python signature, the validation, the
entry in a run file, the JSON schema, the documentation, the equality, and the identity under which results are stored.
"""

from __future__ import annotations

import inspect
import json
import math
from abc import ABC
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema
from typing_extensions import override

from rebasin_core.errors import ConfigError, RebasinError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import ErrorDetails

FAMILY_KEY = "x-family"
"""In a JSON schema, marks the place of any strategy of a family."""

REWORDED = "rebasin"
"""The type of problems that are already in the words of this project."""

_TEMPLATE = "{sentence}"


class Options(BaseModel):
    """Validated, immutable options: annotated attributes with their docstrings.

    Unknown options are refused. Two values of one class are equal if all their options are, and then have equal hashes
    and equal canonical JSON.

    Raises:
        ConfigError: If an option is unknown, missing or out of range; names the option, its value and what is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings")

    def __init__(self, **options: Any) -> None:  # ruff: ignore[any-type] - options of any subclass
        try:
            super().__init__(**options)
        except ValidationError as error:
            problems = "; ".join(sentences(error.errors()))
            message = f"invalid options of `{type(self).__name__}`: {problems}"
            raise ConfigError(message) from None

    # Tells pydantic that nested validation needs no call of `__init__`, which would lose the location of errors.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # an attribute of a function

    @model_validator(mode="wrap")
    @classmethod
    def _reword(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, and report problems in the words of this project, since here the names of the options are known."""
        try:
            return handler(value)
        except ValidationError as error:
            problems = [_reworded(cls, problem) for problem in without_echoes(error.errors())]
            raise ValidationError.from_exception_data(cls.__name__, problems) from None

    @override
    def __hash__(self) -> int:
        return hash((type(self), self.canonical_json()))

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Yield the options that differ from their defaults."""
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "name" and (info.is_required() or value != info.get_default(call_default_factory=True)):
                yield name, value
        yield from (self.model_extra or {}).items()

    @override
    def __str__(self) -> str:
        return repr(self)

    def canonical_json(self) -> str:
        """Return the one JSON text of these options: all of them, defaults included, keys sorted, no spaces.

        Returns:
            The text; equal options give equal texts. Infinities and NaN are strings, which are read back as numbers.
        """
        options = _canonical(self.model_dump(mode="json"))
        return json.dumps(options, sort_keys=True, separators=(",", ":"), allow_nan=False)


Lookup: TypeAlias = "Callable[[str, str], type[Strategy]]"
"""Returns the class of a family's strategy by its registered name, or raises UnknownNameError."""


class Strategy(Options, ABC):
    """One choice in a family, by the name under which it is registered, with its options.

    A concrete class gives its name as the only value of ``name`` (``name: Literal["weight"] = "weight"``) and declares
    one annotated attribute for each option. An option may itself be a strategy: annotated with the interface of its
    family, it is given as an instance, as a registered name, or as a mapping with ``name`` and options.

    Examples:
        >>> from rebasin_core.matchers import RestartsMatcher, WeightMatcher
        >>> RestartsMatcher(matcher={"name": "weight", "max_sweeps": 5}, restarts=2)
        RestartsMatcher(matcher=WeightMatcher(max_sweeps=5), restarts=2)
        >>> RestartsMatcher(matcher="weight") == RestartsMatcher(matcher=WeightMatcher())
        True
    """

    family: ClassVar[str]
    """The family: ``matcher``, ``barrier``, ... Set by the interface of the family."""

    exempt_laws: ClassVar[Mapping[str, str]] = {}
    """Laws of the conformance kit that this strategy cannot keep, each with the reason."""

    name: str
    """The registered name; every concrete class fixes its own."""

    @classmethod
    def registered_name(cls) -> str:
        """Return the name under which the class is registered.

        Returns:
            The default of the attribute ``name``.

        Raises:
            ConfigError: If the class gives none.
        """
        default = cls.model_fields["name"].default
        if not isinstance(default, str):
            message = f"{cls.__name__} gives no registered name; add a line: name: Literal['...'] = '...'"
            raise ConfigError(message)
        return default

    @classmethod
    def of(cls, value: object, lookup: Lookup | None = None) -> Self:
        """Return a strategy of this class's family.

        Args:
            value: An instance, a registered name, or a mapping with ``name`` and options.
            lookup: Finds classes by name; the installed plugins if not given.

        Returns:
            The strategy.

        Raises:
            UnknownNameError: If the name is not registered.
            ConfigError: If options are unknown or out of range, or the value is none of the three.
        """
        lookup = lookup or _default_lookup()
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str):
            lookup(cls.family, name)  # within options, an unknown name is one of the problems that are reported at once
        try:
            return cls.model_validate(value, context={"lookup": lookup})
        except ValidationError as error:
            message = f"invalid {cls.family}: {'; '.join(sentences(error.errors()))}"
            raise ConfigError(message) from None

    @classmethod
    @override
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /
    ) -> core_schema.CoreSchema:
        """Return the schema of a concrete class as it is; that of an interface accepts any strategy of the family."""
        if not inspect.isabstract(cls):
            return handler(source)
        return core_schema.with_info_plain_validator_function(
            cls._of_family, serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True)
        )

    @classmethod
    @override
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        return {FAMILY_KEY: cls.family} if inspect.isabstract(cls) else handler(schema)

    @classmethod
    def _of_family(cls, value: object, info: ValidationInfo) -> Strategy:
        """Return an instance from an instance, a name or a mapping."""
        if isinstance(value, cls):
            return value
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
            message = (
                f"expected the name of a {cls.family}, a mapping with `name` and options, or an instance of "
                f"`{cls.__name__}`, got {value!r}"
            )
            raise _problem(message)
        lookup: Lookup = (info.context or {}).get("lookup") or _default_lookup()
        try:
            found = lookup(cls.family, options["name"])
        except RebasinError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": _problem(str(error)), "loc": ("name",), "input": options["name"]}]
            ) from None
        if not issubclass(found, cls):
            message = f"expected a `{cls.__name__}`, got the {cls.family} {options['name']!r}"
            raise _problem(message)
        return found.model_validate(dict(options), context=info.context)


_LOOKUPS: list[Lookup] = []


def find_names_by(lookup: Lookup) -> None:
    """Set how registered names are found where no lookup is given: by the registry of installed plugins.

    Args:
        lookup: Returns a class, or raises UnknownNameError.
    """
    _LOOKUPS[:] = [lookup]


def strategies_in(value: object) -> Iterator[Strategy]:
    """Yield the strategies in options: those that are options themselves, and those in them.

    Args:
        value: Options, or the value of an option.

    Yields:
        Each strategy, as often as it occurs.
    """
    if isinstance(value, Strategy):
        yield value
    if isinstance(value, Options):
        for name in type(value).model_fields:
            yield from strategies_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strategies_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from strategies_in(item)


def sentences(problems: Iterable[ErrorDetails]) -> list[str]:
    """Return one sentence for each problem that validation found.

    Args:
        problems: As pydantic reports them.

    Returns:
        Sentences such as ``max_sweeps: expected a value greater than or equal to 1, got 0``.
    """
    found: list[str] = []
    for problem in problems:
        place = located(problem["loc"])
        sentence = problem["msg"].removeprefix("Value error, ")
        found.append(f"{place}: {sentence}" if place else sentence)
    return found


def without_echoes(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return problems without those that merely follow from others: a list whose items are invalid is too short, too.

    Args:
        problems: As pydantic reports them.

    Returns:
        The problems that need a change.
    """
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


def located(location: Iterable[str | int]) -> str:
    """Return a location in a document: ``matchers[1].max_sweeps``.

    Args:
        location: Keys and indices from the top.

    Returns:
        The text; empty for the top.
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _default_lookup() -> Lookup:
    if not _LOOKUPS:
        message = "no strategies are registered; import rebasin_core first"
        raise ConfigError(message)
    return _LOOKUPS[0]


def _canonical(value: Any) -> Any:  # ruff: ignore[any-type] - any JSON value
    """Return a JSON value in which equal numbers have equal texts, and numbers that JSON does not know are strings."""
    match value:
        case dict():
            return {key: _canonical(item) for key, item in value.items()}
        case list():
            return [_canonical(item) for item in value]
        case float():
            return value + 0.0 if math.isfinite(value) else json.dumps(value)  # -0.0 + 0.0 is 0.0
        case _:
            return value


def _dumped(strategy: Strategy, info: core_schema.SerializationInfo) -> dict[str, Any]:
    if info.mode != "json":
        return strategy.model_dump(mode=info.mode)
    options: dict[str, Any] = json.loads(strategy.model_dump_json())
    return options


def _problem(sentence: str) -> PydanticCustomError:
    return PydanticCustomError(REWORDED, _TEMPLATE, {"sentence": sentence})


def _reworded(options: type[Options], problem: ErrorDetails) -> InitErrorDetails:
    sentence = problem["msg"] if problem["type"] == REWORDED else _sentence(options, problem)
    return {"type": _problem(sentence), "loc": problem["loc"], "input": problem["input"]}


def _sentence(options: type[Options], problem: ErrorDetails) -> str:
    """Return one problem in the words of this project."""
    if problem["type"] == "extra_forbidden":
        known = [name for name in options.model_fields if name != "name"]
        return f"unknown option; {nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in {"model_type", "model_attributes_type"}:
        return f"expected a mapping with options among {sorted(options.model_fields)}, got {problem['input']!r}"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in {"value_error", "assertion_error"}:
        return text
    for start, ours in (
        ("Input should be greater", "expected a value greater"),
        ("Input should be less", "expected a value less"),
    ):
        text = text.replace(start, ours)
    text = text.replace("Input should be", "expected")
    return f"{text[:1].lower()}{text[1:]}, got {problem['input']!r}"
