"""Validation of the classes that hooks return: they need a name, a concrete class and a JSON schema."""

from __future__ import annotations

import inspect
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import create_model
from pydantic.errors import PydanticUserError

from rebasin_core.errors import PluginError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.bounds import MAX_CLASSES, MAX_NAME_LENGTH
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from pydantic import BaseModel

# Names become parts of file names in the run folder.
_NAME = re.compile(r"\w[\w.+-]*")


def checked_classes(returned: object, interface: type[Any]) -> list[type[Any]]:
    """Validate the classes that a hook returned.

    Args:
        returned: The returned value.
        interface: The interface of the family.

    Returns:
        The classes.

    Raises:
        PluginError: If the value is not a list, or an item is not a class of the family, is abstract, has no valid
            name, or has options that a JSON schema cannot describe.
    """
    if not isinstance(returned, list | tuple):
        message = f"expected a list of classes, got {shown(returned)}"
        raise PluginError(message)
    # A subclass of `list` may be an infinite iterator.
    classes = list(islice(returned, MAX_CLASSES + 1))
    if len(classes) > MAX_CLASSES:
        message = f"expected at most {MAX_CLASSES} classes, got more"
        raise PluginError(message)
    return [_checked(kind, interface) for kind in classes]


def name_of(kind: type[Any]) -> str:
    """Return the name under which a class is registered.

    Args:
        kind: A class of any family.

    Returns:
        The name.

    Raises:
        ConfigError: If a strategy has none.
    """
    if issubclass(kind, Strategy):
        return kind.registered_name()
    if issubclass(kind, OperatorRules):
        return kind.name
    return str(kind.kind) if issubclass(kind, Posterior) else kind.__name__


def _checked(kind: object, interface: type[Any]) -> type[Any]:
    if not isinstance(kind, type) or not issubclass(kind, interface):
        message = f"expected subclasses of {interface.__name__}, got {kind!r}"
        raise PluginError(message)
    name = name_of(kind)
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        message = (
            f"{kind.__name__} is registered as {shown(name)}; expected a name of letters, digits, '_', '-', '+' and "
            f"'.', of at most {MAX_NAME_LENGTH} characters"
        )
        raise PluginError(message)
    if inspect.isabstract(kind):
        missing = ", ".join(f"`{method}`" for method in sorted(getattr(kind, "__abstractmethods__", ())))
        message = f"{kind.__name__} is abstract; it does not implement {missing}"
        raise PluginError(message)
    if issubclass(kind, Strategy):
        _require_schema(kind)
    return kind


def _require_schema(kind: type[BaseModel]) -> None:
    """Raise if an option has no JSON schema, which run files and stored results require."""
    try:
        kind.model_json_schema()
    except PydanticUserError as error:
        options = ", ".join(f"`{name}`" for name in kind.model_fields if not _has_schema(kind, name))
        message = f"{kind.__name__} has options that a JSON schema cannot describe, {options}: {error.message}"
        raise PluginError(message) from error


def _has_schema(kind: type[BaseModel], option: str) -> bool:
    info = kind.model_fields[option]
    fields: dict[str, Any] = {option: (info.annotation, info)}
    try:
        create_model(kind.__name__, __config__={"arbitrary_types_allowed": True}, **fields).model_json_schema()
    except PydanticUserError:
        return False
    return True
