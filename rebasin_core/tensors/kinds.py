"""Arguments of the wrong kind: what was expected, what came, and the way out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NoReturn

from rebasin_core.errors import InvalidInputError


def refuse(value: object, expected: str, way_out: str = "") -> NoReturn:
    """Raise that an argument is of the wrong kind.

    Args:
        value: The argument.
        expected: What it must be.
        way_out: What to do instead, if there is more to say.

    Raises:
        InvalidInputError: Always; names the type of the argument.
    """
    kind = f"the class `{value.__qualname__}`" if isinstance(value, type) else f"`{type(value).__qualname__}`"
    message = f"expected {expected}, got {kind}{f'; {way_out}' if way_out else ''}"
    raise InvalidInputError(message)


def require_path(value: object) -> None:
    """Raise if a value is no path of a file.

    Args:
        value: What was passed as one.

    Raises:
        InvalidInputError: If it is something else than a text or a path object.
    """
    if not isinstance(value, str | os.PathLike):
        refuse(value, "a path as a text or `pathlib.Path`")


def require_mapping(value: object, what: str) -> None:
    """Raise if a value is no mapping.

    Args:
        value: What was passed as one.
        what: What it must be, for the message.

    Raises:
        InvalidInputError: If it is something else.
    """
    if not isinstance(value, Mapping):
        refuse(value, what)


def require_several(value: object, what: str) -> None:
    """Raise if a value does not hold several things in order.

    Args:
        value: What was passed as a sequence.
        what: What it must be, for the message.

    Raises:
        InvalidInputError: If it is something else.
    """
    if not isinstance(value, Iterable) or isinstance(value, Mapping | str):
        refuse(value, what, "put several into a list")
