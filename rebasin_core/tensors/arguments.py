"""Checks of the types of arguments, and their errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NoReturn

from rebasin_core.errors import InvalidInputError


def raise_wrong_type(value: object, expected: str, remedy: str = "") -> NoReturn:
    """Raise an error about the type of an argument.

    Args:
        value: The argument.
        expected: Description of the expected value.
        remedy: Advice that is added to the message, if not empty.

    Raises:
        InvalidInputError: Always; names the type of the argument.
    """
    found = f"the class `{value.__qualname__}`" if isinstance(value, type) else f"`{type(value).__qualname__}`"
    message = f"expected {expected}, got {found}{f'; {remedy}' if remedy else ''}"
    raise InvalidInputError(message)


def require_path(value: object) -> None:
    """Raise if an argument is not the path of a file.

    Args:
        value: The argument.

    Raises:
        InvalidInputError: If it is neither a string nor a path object.
    """
    if not isinstance(value, str | os.PathLike):
        raise_wrong_type(value, "a path as a string or `pathlib.Path`")


def require_mapping(value: object, expected: str) -> None:
    """Raise if an argument is not a mapping.

    Args:
        value: The argument.
        expected: Description of the expected value.

    Raises:
        InvalidInputError: If it is not a mapping.
    """
    if not isinstance(value, Mapping):
        raise_wrong_type(value, expected)


def require_sequence(value: object, expected: str) -> None:
    """Raise if an argument is not a sequence or another iterable of several objects.

    Args:
        value: The argument.
        expected: Description of the expected value.

    Raises:
        InvalidInputError: If it is not iterable, or is a mapping or a string.
    """
    if not isinstance(value, Iterable) or isinstance(value, Mapping | str):
        raise_wrong_type(value, expected, "put several into a list")
