"""Operators of a graph that copy or average vectors of units: along which dimension of the result the units are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from rebasin_core.specs.tracing.graph import value_of

if TYPE_CHECKING:
    from torch.fx import Node

_Carrier: TypeAlias = "Callable[[dict[str, object], int, tuple[int, ...], tuple[int, ...]], int | None]"


def operator_of(node: Node) -> str:
    """Return the name of the operator of a node, without namespace and overload; empty for nodes without one.

    Args:
        node: Any node.

    Returns:
        A name such as ``layer_norm``.
    """
    namespace, _, name = str(node.target).partition(".")
    return name.partition(".")[0] if node.op == "call_function" and namespace == "aten" else ""


def arguments_of(node: Node) -> dict[str, object]:
    """Return the arguments of a call by their names in the operator's schema.

    Args:
        node: The call of an operator.

    Returns:
        The arguments that are given.
    """
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a tensor, or of the first tensor of a list.

    Args:
        node: A node.

    Returns:
        The shape; empty if it is unknown.
    """
    value = value_of(node)
    first = value[0] if isinstance(value, list | tuple) and value else value
    return tuple(int(size) for size in getattr(first, "shape", ()))


def carried(node: Node, user: Node, dim: int) -> int | None:
    """Return where a result has the units of an argument, if it copies or averages vectors of units.

    Args:
        node: The argument, whose units are along ``dim``.
        user: A call that uses it.
        dim: Nonnegative index of a dimension of the argument.

    Returns:
        The dimension of the result (or of each tensor in a list), along which every vector is one of the argument, or
        an average of several; None if that is not so.
    """
    if user.target is operator.getitem:
        return dim
    carrier = _CARRIERS.get(operator_of(user))
    if carrier is None or [node] != [given for given in user.all_input_nodes if _has_units(given, user, node)]:
        return None
    found = carrier(arguments_of(user), dim, shape_of(node), shape_of(user))
    shape = shape_of(user)
    return found if found is not None and found < len(shape) and shape[found] == shape_of(node)[dim] else None


def _has_units(given: Node, user: Node, node: Node) -> bool:
    """Return whether an argument is not an index."""
    return given is node or operator_of(user) not in {"index", "index_select"}


def _same(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del arguments, before, after
    return dim


def _reshaped(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    del arguments
    ahead = prod(before[:dim])
    places = [at for at, size in enumerate(after) if size == before[dim] and prod(after[:at]) == ahead]
    return places[0] if before[dim] > 1 and places else None


def _transposed(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del after
    given = [arguments.get(name) for name in ("dim0", "dim1")]
    first, second = (value % len(before) if isinstance(value, int) else at for value, at in zip(given, (0, 1), strict=True))
    return {first: second, second: first}.get(dim, dim)


def _permuted(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del after
    dims = [value % len(before) for value in _integers(arguments.get("dims"))]
    return dims.index(dim)


def _expanded(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del arguments
    return dim + len(after) - len(before)


def _along_other(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """Return the dimension if the operator selects, splits or averages along other ones, which it may remove."""
    dims = {value % len(before) for value in _integers(arguments.get("dim", 0))}
    if dim in dims:
        return None
    removed = sum(other < dim for other in dims) if len(after) < len(before) else 0
    return dim - removed


def _averaged(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    return _along_other(arguments, dim, before, after) if arguments.get("dim") else None


def _indexed(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """Return the last dimension if only others are indexed; the order of the others does not matter."""
    indices = arguments.get("indices")
    count = len(indices) if isinstance(indices, Sequence) else len(before)
    return len(after) - 1 if dim == len(before) - 1 and count < len(before) else None


def _integers(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [item for item in value if isinstance(item, int)] if isinstance(value, Sequence) else []


_COPIES = (
    "alias", "alias_copy", "clone", "contiguous", "detach", "dropout", "lift", "lift_fresh", "lift_fresh_copy", "to",
    "_to_copy", "type_as",
)  # fmt: skip
_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
_ALONG_OTHERS = (
    "select", "slice", "narrow", "index_select", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split",
    "unsafe_chunk",
)  # fmt: skip

_CARRIERS: dict[str, _Carrier] = {
    **dict.fromkeys(_COPIES, _same),
    **dict.fromkeys(_RESHAPES, _reshaped),
    **dict.fromkeys(_ALONG_OTHERS, _along_other),
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transposed),
    "mean": _averaged,
    "permute": _permuted,
    "expand": _expanded,
    "index": _indexed,
}
