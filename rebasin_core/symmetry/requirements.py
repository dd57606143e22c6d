"""Checks of arguments: that a value is a layout, that two layouts are equal, that a tensor can be transformed alone."""

from __future__ import annotations

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.layout import Layout


def require_same_layout(expected: Layout, given: Layout, description: str) -> None:
    """Raise if two layouts differ.

    Args:
        expected: A layout.
        given: Another layout.
        description: Description of the owner of the second, for the message.

    Raises:
        InvalidInputError: If their fingerprints differ.
    """
    if given.fingerprint != expected.fingerprint:
        message = (
            f"{description} belongs to another specification ({given.fingerprint}, expected {expected.fingerprint})"
        )
        raise InvalidInputError(message)


def require_unstacked(layout: Layout, name: str) -> str:
    """Return the name in ``axes`` of a tensor that can be transformed alone.

    Args:
        layout: The layout.
        name: Name of a tensor or stack.

    Returns:
        The name of the tensor or stack.

    Raises:
        InvalidInputError: If the tensor is one of a stack, whose tensors are exchanged with each other.
    """
    key = layout.key(name)
    if key != name and key in layout.stacks:
        message = (
            f"cannot transform a tensor attached to `{name}` alone: it is one of the stack `{key}`, whose tensors are "
            "exchanged with each other; use a posterior whose tensors have the shapes of whole parameters"
        )
        raise InvalidInputError(message)
    return key


def require_layout(value: object) -> None:
    """Raise if a value is not a layout.

    Args:
        value: Any object.

    Raises:
        InvalidInputError: If it is not a `Layout`.
    """
    if not isinstance(value, Layout):
        message = f"expected a `Layout`, got `{type(value).__qualname__}`; use the `layout` of the specification"
        raise InvalidInputError(message)
