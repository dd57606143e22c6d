"""Conditions for the rules for positions: no ties between elements, and no writes that other operators could read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from torch.fx import Node

from rebasin_core.specs.operators.position_catalogue import PRODUCERS, with_positions
from rebasin_core.specs.operators.positions import label_of, labels_in
from rebasin_core.specs.tracing.graph import makes_new_tensor, value_of
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms


def positioned(call: Call, node: Node, ordinary: Callable[[Call], list[AxisTerms]]) -> list[AxisTerms] | None:
    """Return the axes of the outputs of an operator that returns or uses positions along an axis.

    Args:
        call: The call.
        node: Its node.
        ordinary: The rule of the operator for plain integers.

    Returns:
        The axes of each output; None if there are no positions, or they are used as plain integers.
    """
    if any(0 in shape for shape in call.shapes) or any(length(term) == 0 for terms in call.tensors for term in terms):
        return None
    if labels_in([*call.arguments.values()]):
        found = with_positions(call, ordinary)
        stale = getattr(getattr(node.target, "_schema", None), "is_mutable", False) and not _is_only_use(node)
        return _without_labels(call, found, "positions are written to shared memory") if found and stale else found
    rule = PRODUCERS.get(call.operator)
    found = None if rule is None else rule(call)
    if found is None or not labels_in(found):
        return found
    if len(found) > 1 and 1 not in call.used:
        return [tuple(terms) for terms in found]
    if call.operator != "aten.arange" and _may_tie(node.args[0]):
        return _without_labels(call, found, "ties between elements are resolved by position")
    return found


def computed_axes(call: Call, found: list[AxisTerms]) -> Iterator[AxisTerm]:
    """Yield the axes whose units are not only copied or contracted by an operator on positions.

    Args:
        call: The call.
        found: The axes of its outputs.

    Yields:
        All axes; for lookups and grouped products only the axes of positions, and the axes that positions are along.
    """
    tensors = [*call.tensors, *found]
    for terms in tensors:
        label = label_of(terms)
        if label is not None or call.operator not in _LINEAR:
            yield from terms
        if label is not None:
            yield label.along


def _without_labels(call: Call, found: list[AxisTerms], why: str) -> list[AxisTerms]:
    """Fix the axes that outputs are positions along, and return the outputs without labels."""
    for terms in found:
        label = label_of(terms)
        if label is not None:
            call.freeze(label.along, why)
    return [tuple(terms) for terms in found]


def _is_only_use(node: Node) -> bool:
    """Return whether the tensor that a node writes to is new and has no other user."""
    target = node.args[0]
    return isinstance(target, Node) and makes_new_tensor(target) and len(target.users) == 1


def _may_tie(argument: object) -> bool:
    """Return whether elements may be equal for a set of parameters of positive measure: ties depend on position."""
    if not isinstance(argument, Node):
        return False
    dtype = getattr(value_of(argument), "dtype", None)
    name = str(argument.target).partition(".")[2].partition(".")[0].removesuffix("_")
    if name in _TYING or (dtype is not None and not dtype.is_floating_point):
        return True
    # Infinite scores exclude elements; ties between excluded elements are assumed not to be selected.
    if name == "masked_fill" and argument.args[2] not in {math.inf, -math.inf}:
        return True
    followed = argument.args if name in {"mul", "div"} else argument.args[:1]
    return name in _MONOTONE and any(map(_may_tie, followed))


_LINEAR: Final = frozenset({
    "aten.index", "aten._unsafe_index", "aten.index_select", "aten.embedding", "aten._grouped_mm",
    "transformers.grouped_mm_fallback",
})  # fmt: skip
_TYING: Final = frozenset({
    "relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "threshold", "clamp", "clamp_min", "clamp_max",
    "softshrink", "hardshrink", "round", "floor", "ceil", "trunc", "sign", "where", "maximum", "minimum", "zeros",
    "ones", "full", "zeros_like", "ones_like", "full_like", "one_hot", "scatter", "expand", "repeat",
    "repeat_interleave",
})  # fmt: skip
_MONOTONE: Final = frozenset({
    "softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "tanh", "exp", "log", "neg", "to", "_to_copy",
    "view", "reshape", "_unsafe_view", "flatten", "unsqueeze", "squeeze", "transpose", "permute", "t", "contiguous",
    "clone", "detach", "alias", "div", "mul", "dropout", "masked_fill", "abs", "slice", "select", "gelu", "silu",
    "softplus",
})  # fmt: skip
