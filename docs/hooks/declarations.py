"""Shows options, including inherited ones, as arguments of a class, and the abstract methods that authors implement.

An extension of griffe, which reads the sources for the API pages. It removes all other private members. A filter by
name would also hide abstract methods such as ``_match``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from griffe import (
    Attribute,
    Class,
    DocstringParameter,
    DocstringSectionParameters,
    Expr,
    ExprCall,
    ExprKeyword,
    ExprSubscript,
    ExprTuple,
    Extension,
    Function,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS: Final = "rebasin_core.strategy.Options"
_STRATEGY: Final = "rebasin_core.strategy.Strategy"
_SHOWN: Final = {"__init__", "__call__", "__iter__", "__len__"}
_BOUNDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@final
class Declarations(Extension):
    """Adds a signature and a table of options to the classes that declare some, and removes private members."""

    @override
    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        classes = _classes(pkg)
        declaring = [cls for cls in classes if any(base.canonical_path == _OPTIONS for base in cls.mro())]
        tables = [_options(cls) for cls in declaring]
        _remove_private(pkg)
        for cls, options in zip(declaring, tables, strict=True):
            _show_options(cls, options)


def _classes(module: Module) -> list[Class]:
    """Return the classes that a module and its submodules define."""
    members = [member for member in module.members.values() if not member.is_alias]
    found = [member for member in members if isinstance(member, Class)]
    for member in members:
        if isinstance(member, Module):
            found += _classes(member)
    return found


def _remove_private(parent: Object) -> None:
    """Remove private members other than special and abstract methods."""
    for name, member in list(parent.members.items()):
        if not isinstance(member, Object):  # an import
            continue
        if name.startswith("_") and name not in _SHOWN and "abstractmethod" not in member.labels:
            del parent.members[name]
        else:
            _remove_private(member)


def _options(cls: Class) -> list[Attribute]:
    """Return the options that a class declares or inherits, those of its bases first."""
    options: dict[str, Attribute] = {}
    for base in [*reversed(cls.mro()), cls]:
        declared = [member for member in base.members.values() if isinstance(member, Attribute) and _is_option(member)]
        options |= {option.name: option for option in declared}
    return list(options.values())


def _show_options(cls: Class, options: Sequence[Attribute]) -> None:
    """Add the signature and a table of all options; remove the separate entries of the options."""
    for name in [*(option.name for option in options), "exempt_laws"]:
        if cls.canonical_path != _STRATEGY:  # where they are explained
            cls.members.pop(name, None)
    parameters = Parameters(Parameter("self"), *[_parameter(option) for option in options])
    cls.members["__init__"] = Function("__init__", parameters=parameters, parent=cls)
    if cls.docstring is not None and options:
        rows = [_row(option) for option in options]
        cls.docstring.parsed.insert(_first_section(cls), DocstringSectionParameters(rows, title="Options:"))


def _first_section(cls: Class) -> int:
    """Return the index of the first section after the text that opens a docstring."""
    sections = [] if cls.docstring is None else cls.docstring.parsed
    return next((i for i, section in enumerate(sections) if section.kind.value != "text"), len(sections))


def _is_option(member: Attribute) -> bool:
    """Whether a member is an annotated attribute that is an option; a name without a value is none to be given."""
    return (
        member.annotation is not None
        and "instance-attribute" in member.labels  # griffe does not set it for class variables
        and "property" not in member.labels
        and not member.name.startswith("_")
        and member.canonical_path != f"{_STRATEGY}.name"
    )


def _annotated(option: Attribute) -> list[str | Expr]:
    """Return the type of an option and its metadata, the arguments of ``Annotated``."""
    annotation = option.annotation
    if isinstance(annotation, ExprSubscript) and str(annotation.left) == "Annotated":
        parts = annotation.slice
        return list(parts.elements) if isinstance(parts, ExprTuple) else [parts]
    return [] if annotation is None else [annotation]


def _field_arguments(option: Attribute) -> dict[str, str]:
    """Return the keyword arguments of ``Field``, annotated or as the value."""
    calls = [part for part in (*_annotated(option), option.value) if isinstance(part, ExprCall)]
    return {
        argument.name: str(argument.value)
        for call in calls
        if str(call.function) == "Field"
        for argument in call.arguments
        if isinstance(argument, ExprKeyword)
    }


def _default(option: Attribute) -> str | None:
    if isinstance(option.value, ExprCall) and str(option.value.function) == "Field":
        given = _field_arguments(option)
        if "default_factory" in given:
            return f"{given['default_factory']}()"
        first = option.value.arguments[0] if option.value.arguments else "..."
        return given.get("default", None if isinstance(first, ExprKeyword) or first == "..." else str(first))
    return None if option.value is None else str(option.value)


def _parameter(option: Attribute) -> Parameter:
    return Parameter(
        option.name,
        annotation=_annotated(option)[0],
        kind=ParameterKind.keyword_only,
        default=_default(option),
    )


def _row(option: Attribute) -> DocstringParameter:
    described = "The registered name." if option.docstring is None else " ".join(option.docstring.value.split())
    bounds = [f"{_BOUNDS[key]} {value}" for key, value in _field_arguments(option).items() if key in _BOUNDS]
    if bounds:
        described += f" ({' and '.join(bounds)})"
    return DocstringParameter(
        option.name, annotation=_annotated(option)[0], description=described, value=_default(option)
    )
