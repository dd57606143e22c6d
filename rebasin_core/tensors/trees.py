"""Nested containers of tensors, as models take and return them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree  # ruff: ignore[import-private-name] - PyTorch's own, used by all of its APIs

if TYPE_CHECKING:
    from collections.abc import Callable


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:  # ruff: ignore[any-type] - any nesting
    """Return a nested container with a function applied to every leaf.

    Args:
        function: Takes a leaf.
        tree: Lists, tuples, dictionaries and registered classes, nested.

    Returns:
        The same nesting.
    """
    return pytree.tree_map(function, tree)


def tree_leaves(tree: Any) -> list[Any]:  # ruff: ignore[any-type]
    """Return the leaves of a nested container, in order.

    Args:
        tree: As in `tree_map`.

    Returns:
        The leaves.
    """
    leaves: list[Any] = pytree.tree_leaves(tree)
    return leaves


def tree_flatten(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:  # ruff: ignore[any-type]
    """Return the leaves of a nested container, and the function that puts others in their place.

    Args:
        tree: As in `tree_map`.

    Returns:
        The leaves and the way back.
    """
    leaves, structure = pytree.tree_flatten(tree)
    return leaves, lambda others: pytree.tree_unflatten(others, structure)
