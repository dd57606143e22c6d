"""Operators of a graph that copy or average vectors of units: along which dimension of the result the units are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

from torch.fx import Node

from rebasin_core.specs.tracing.graph import value_of

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
    found = [at for at, size in enumerate(after) if size == before[dim] and prod(after[:at]) == ahead]
    return found[0] if before[dim] > 1 and found else None


def _transposed(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del after
    (first,) = _integers(arguments.get("dim0", 0))
    (second,) = _integers(arguments.get("dim1", 1))
    first, second = first % len(before), second % len(before)
    return {first: second, second: first}.get(dim, dim)


def _reversed(arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    del arguments, after
    return len(before) - 1 - dim


def _with_last_two_exchanged(
    arguments: dict[str, object], dim: int, before: tuple[int, ...], after: tuple[int, ...]
) -> int:
    del arguments, after
    last = len(before) - 1
    return {last - 1: last, last: last - 1}.get(dim, dim)


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

KEEP_CONSTANTS = frozenset({
    *_COPIES, *_RESHAPES, *_ALONG_OTHERS, "transpose", "t", "swapaxes", "swapdims", "numpy_T", "mT", "mean", "permute",
    "expand", "index", "repeat", "repeat_interleave", "movedim", "flip", "roll", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d",
})  # fmt: skip
"""Operators all of whose entries are entries of the first argument, or averages of them."""

_CARRIERS: dict[str, _Carrier] = {
    **dict.fromkeys(_COPIES, _same),
    **dict.fromkeys(_RESHAPES, _reshaped),
    **dict.fromkeys(_ALONG_OTHERS, _along_other),
    **dict.fromkeys(("transpose", "t", "swapaxes", "swapdims"), _transposed),
    "numpy_T": _reversed,
    "mT": _with_last_two_exchanged,
    "mean": _averaged,
    "permute": _permuted,
    "expand": _expanded,
    "index": _indexed,
}


def added_to(node: Node, user: Node, dim: int) -> int | None:
    """Return where a result changes by multiples of a vector, if a multiple of it is added to an argument.

    Args:
        node: The argument, to which multiples of the vector are added along ``dim``.
        user: A call that uses it once, and is linear in it.
        dim: Nonnegative index of a dimension of the argument.

    Returns:
        The dimension of the result along which multiples of the same vector are added; None if that is not so.
    """
    given = arguments_of(user)
    rule = _ADDED.get(operator_of(user))
    return None if rule is None else rule(node, user, dim, given)


def _added_elementwise(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    del given
    return dim + len(shape_of(user)) - len(shape_of(node))


def _multiplied(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    """Return the dimension if the other factors are equal along it."""
    aligned = dim + len(shape_of(user)) - len(shape_of(node))
    if operator_of(user) == "div" and (node is not given["self"] or given.get("rounding_mode")):
        return None
    other = given["other"] if node is given["self"] else given["self"]
    shape = shape_of(other) if isinstance(other, Node) else ()
    at = aligned - len(shape_of(user)) + len(shape)
    return aligned if at < 0 or shape[at] == 1 else None


def _concatenated(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    del user
    return None if dim in {along % len(shape_of(node)) for along in _integers(given.get("dim", 0))} else dim


def _rows_of_linear(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    return len(shape_of(user)) - 1 if node is not given["input"] and dim == 0 else None


def _columns_of_product(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    if operator_of(user) == "addmm" and node is given["self"]:
        return _added_elementwise(node, user, dim, given)
    second = given["other"] if "other" in given else given["mat2"]
    is_column = node is second and dim == len(shape_of(node)) - 1 and dim > 0
    return len(shape_of(user)) - 1 if is_column else None


def _columns_of_embedding(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    del node, given
    return len(shape_of(user)) - 1 if dim == 1 else None


def _channels(node: Node, user: Node, dim: int, given: dict[str, object]) -> int | None:
    weight = given["weight"]
    if node is given["input"] or dim != 0 or given.get("transposed") or not isinstance(weight, Node):
        return None
    return len(shape_of(user)) - 1 - (len(shape_of(weight)) - 2)


_ADDED: dict[str, Callable[[Node, Node, int, dict[str, object]], int | None]] = {
    **dict.fromkeys(("add", "sub"), _added_elementwise),
    **dict.fromkeys(("mul", "div"), _multiplied),
    "cat": _concatenated,
    "linear": _rows_of_linear,
    **dict.fromkeys(("addmm", "mm", "bmm", "matmul"), _columns_of_product),
    "embedding": _columns_of_embedding,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _channels),
}
