"""Nested containers of tensors, such as inputs and outputs of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree  # ruff: ignore[import-private-name] - PyTorch's own, used by all of its APIs

if TYPE_CHECKING:
    from collections.abc import Callable


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:  # ruff: ignore[any-type] - any nesting
    """Return a nested container with a function applied to every leaf.

    Args:
        function: Function of a leaf.
        tree: Nested lists, tuples, dictionaries and classes registered with PyTorch's pytree.

    Returns:
        A container of the same structure.
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


def tree_tensors(tree: object) -> list[Tensor]:
    """Return the tensors in an output of a model: in nested containers, and in the attributes of other objects.

    Args:
        tree: As in `tree_map`, or an object such as a dataclass or a distribution; modules are not searched.

    Returns:
        The tensors; each object is searched once.
    """
    return _tensors_inside(tree, set())


def _tensors_inside(tree: object, visited: set[int]) -> list[Tensor]:
    found: list[Tensor] = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif not isinstance(leaf, nn.Module | type) and id(leaf) not in visited:
            visited.add(id(leaf))
            slots = (name for base in type(leaf).__mro__ for name in vars(base).get("__slots__", ()))
            values = [*getattr(leaf, "__dict__", {}).values(), *(getattr(leaf, name, None) for name in slots)]
            found += _tensors_inside(values, visited) if values else []
    return found


def tree_flatten(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:  # ruff: ignore[any-type]
    """Return the leaves of a nested container, and a function that rebuilds the container from other leaves.

    Args:
        tree: As in `tree_map`.

    Returns:
        The leaves, and the function.
    """
    leaves, structure = pytree.tree_flatten(tree)
    return leaves, lambda others: pytree.tree_unflatten(others, structure)
