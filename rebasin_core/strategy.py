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

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import core_schema
from typing_extensions import override

from rebasin_core.docstrings import attribute_docstrings
from rebasin_core.errors import ConfigError, RebasinError
from rebasin_core.problems import custom_error, messages, rewritten, without_consequences
from rebasin_core.providers import import_providers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.functional_validators import ModelWrapValidatorHandler
    from pydantic.json_schema import JsonSchemaValue

FAMILY_KEY = "x-family"
"""Key in a JSON schema that stands for any strategy of a family."""


class Options(BaseModel):
    """Validated, immutable options: annotated attributes with their docstrings.

    Unknown options raise an error. Two instances of one class are equal if all their options are equal; equal instances
    have equal hashes and equal canonical JSON.

    Raises:
        ConfigError: If an option is unknown, missing or out of range; states the option, its value and the constraint.
    """

    # Not `use_attribute_docstrings`: it reads the source of every class on import, which takes half a second.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    def __init__(self, **options: Any) -> None:  # ruff: ignore[any-type] - options of any subclass
        try:
            super().__init__(**options)
        except ValidationError as error:
            problems = "; ".join(messages(error.errors()))
            message = f"invalid options of `{type(self).__name__}`: {problems}"
            raise ConfigError(message) from None

    # Makes pydantic validate nested options without calling `__init__`, which would lose the location of errors.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # an attribute of a function

    @model_validator(mode="wrap")
    @classmethod
    def _rewrite(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, and rewrite problems here, where the names of the options are available."""
        try:
            return handler(value)
        except ValidationError as error:
            problems = [rewritten(cls.model_fields, problem) for problem in without_consequences(error.errors())]
            raise ValidationError.from_exception_data(cls.__name__, problems) from None

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError:
            raise _fixed(self, name) from None

    @override
    def __delattr__(self, name: str) -> None:
        try:
            super().__delattr__(name)
        except ValidationError:
            raise _fixed(self, name) from None

    def replace(self, **changes: Any) -> Self:  # ruff: ignore[any-type] - options of any subclass
        """Return a copy with some options changed, validated like any other instance.

        Args:
            **changes: New values by the names of options.

        Returns:
            A new instance of the same class.

        Raises:
            ConfigError: If an option is unknown or out of range.

        Examples:
            >>> from rebasin_core.matchers import WeightMatcher
            >>> WeightMatcher(max_sweeps=5).replace(max_sweeps=50)
            WeightMatcher(max_sweeps=50)
        """
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Return the docstrings of the options.

        Returns:
            Docstring of every option that has one, by name; read from the source, empty if it is not available.
        """
        below = {name: text for name, text in attribute_docstrings(cls).items() if name in cls.model_fields}
        return below | {name: field.description for name, field in cls.model_fields.items() if field.description}

    @classmethod
    @override
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Return the schema, with the docstrings of the options as their descriptions."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for name, text in cls.descriptions().items():
            if name in properties:
                properties[name].setdefault("description", text)
        return found

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
        """Return the canonical JSON text: all options including defaults, keys sorted, no spaces.

        Returns:
            The text; equal options have equal texts. Infinities and NaN are strings, from which options are read back.
        """
        options = _canonical(self.model_dump(mode="json"))
        return json.dumps(options, sort_keys=True, separators=(",", ":"), allow_nan=False)


Lookup: TypeAlias = "Callable[[str, str], type[Strategy]]"
"""Returns the class of a family's strategy by its registered name, or raises UnknownNameError."""


class Strategy(Options, ABC):
    """A component of a family (a matcher, a path, a likelihood, ...) with its registered name and options.

    A concrete class declares its name as the only value of ``name`` (``name: Literal["weight"] = "weight"``), and one
    annotated attribute for each option. An option may itself be a strategy. It is then annotated with the interface of
    its family, and accepts an instance, a registered name, or a mapping with ``name`` and options.

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
    """Laws of the conformance kit that this strategy cannot satisfy, each with the reason."""

    name: str
    """The registered name, fixed by every concrete class."""

    @classmethod
    def registered_name(cls) -> str:
        """Return the name under which the class is registered.

        Returns:
            The default of the attribute ``name``.

        Raises:
            ConfigError: If the class declares none.
        """
        default = cls.model_fields["name"].default
        if not isinstance(default, str):
            message = f"{cls.__name__} has no registered name; add a line: name: Literal['...'] = '...'"
            raise ConfigError(message)
        return default

    @classmethod
    def of(cls, value: object, lookup: Lookup | None = None) -> Self:
        """Return a strategy of this class's family.

        Args:
            value: An instance, a registered name, or a mapping with ``name`` and options.
            lookup: Finds classes by name; if None, among the installed plugins.

        Returns:
            The strategy.

        Raises:
            UnknownNameError: If the name is not registered.
            ConfigError: If options are unknown or out of range, or the value has another type.
        """
        lookup = lookup or _default_lookup()
        value = {"name": value} if isinstance(value, str) else value
        name = value.get("name") if isinstance(value, Mapping) else None
        if isinstance(name, str) and (inspect.isabstract(cls) or name != cls.registered_name()):
            lookup(cls.family, name)  # raises UnknownNameError; in nested options, an unknown name is a ConfigError
        try:
            return cls.model_validate(value, context={"lookup": lookup})
        except ValidationError as error:
            message = f"invalid {cls.family}: {'; '.join(messages(error.errors()))}"
            raise ConfigError(message) from None

    @classmethod
    @override
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /
    ) -> core_schema.CoreSchema:
        """Return the schema of a concrete class unchanged; for an interface, accept any strategy of the family."""
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
        return (
            {FAMILY_KEY: cls.family}
            if inspect.isabstract(cls)
            else super().__get_pydantic_json_schema__(schema, handler)
        )

    @classmethod
    def _of_family(cls, value: object, info: ValidationInfo) -> Strategy:
        """Return an instance from an instance, a name or a mapping."""
        if isinstance(value, cls):
            return value
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
            message = (
                f"expected the name of a registered {cls.family}, a mapping with `name` and options, or an instance of "
                f"`{cls.__name__}`, got {value!r}"
            )
            raise custom_error(message)
        lookup: Lookup = (info.context or {}).get("lookup") or _default_lookup()
        try:
            found = lookup(cls.family, options["name"])
        except RebasinError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": custom_error(str(error)), "loc": ("name",), "input": options["name"]}]
            ) from None
        if not issubclass(found, cls):
            message = f"expected a `{cls.__name__}`, got the {cls.family} {options['name']!r}"
            raise custom_error(message)
        return found.model_validate(dict(options), context=info.context)


_LOOKUPS: list[Lookup] = []


def find_names_by(lookup: Lookup) -> None:
    """Set the default lookup of registered names: that of the registry of installed plugins.

    Args:
        lookup: Returns a class, or raises UnknownNameError.
    """
    _LOOKUPS[:] = [lookup]


def strategies_in(value: object) -> Iterator[Strategy]:
    """Yield the strategies among options, recursively.

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


def _fixed(options: Options, name: str) -> ConfigError:
    changed = f"{name}=..." if name in type(options).model_fields else "option=..."
    return ConfigError(
        f"the options of `{type(options).__name__}` are immutable, cannot set `{name}`; `replace({changed})` returns a "
        "changed copy"
    )


def _default_lookup() -> Lookup:
    if not _LOOKUPS:
        import_providers()
    return _LOOKUPS[0]


def _canonical(value: Any) -> Any:  # ruff: ignore[any-type] - any JSON value
    """Return a JSON value in which equal numbers have equal texts; infinities and NaN become strings."""
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
