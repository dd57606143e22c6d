"""Rules for positions by operator: operators that return, rearrange or use positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.position_lookup import equal, gather, index, index_put, index_select, one_hot, scatter
from rebasin_core.specs.operators.position_order import (
    arange,
    counts,
    extremum,
    grouped_product,
    offsets,
    quotient,
    sort_positions,
    topk,
)
from rebasin_core.specs.operators.positions import Positions, can_hold, label_of
from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, substitute, uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.specs.operators.call import Call


_COMPLETE: Final = frozenset({
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.unsqueeze",
    "aten.squeeze", "aten.transpose", "aten.permute", "aten.t", "aten.contiguous", "aten.clone", "aten.to",
    "aten._to_copy", "aten.detach", "aten.detach_", "aten.alias", "aten.lift_fresh_copy", "aten.movedim",
    "aten.numpy_T",
})  # fmt: skip
_PARTIAL: Final = frozenset({
    "aten.slice", "aten.select", "aten.narrow", "aten.split", "aten.chunk", "aten.split_with_sizes", "aten.unbind",
    "aten.expand", "aten.expand_as", "aten.repeat", "aten.repeat_interleave", "aten.broadcast_to", "aten.tile",
})  # fmt: skip
_SHAPE_ONLY: Final = frozenset({
    "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.full_like", "aten.new_zeros", "aten.new_ones",
    "aten.new_empty", "aten.new_full",
})  # fmt: skip

PRODUCERS: Final[Mapping[str, Callable[[Call], list[AxisTerms] | None]]] = {
    **dict.fromkeys(("aten.topk", "aten.sort", "aten.argsort"), topk),
    **dict.fromkeys(("aten.max", "aten.min", "aten.argmax", "aten.argmin"), extremum),
    "aten.arange": arange,
}
"""Operators that return positions: the only output, or the second of two."""

_CONSUMERS: Final[Mapping[str, Callable[[Call], list[AxisTerms] | None]]] = {
    **dict.fromkeys(("aten.index", "aten._unsafe_index"), index),
    **dict.fromkeys(("aten.index_select", "aten.embedding"), index_select),
    "aten.gather": gather,
    **dict.fromkeys(
        (
            *("aten.scatter", "aten.scatter_add", "aten.scatter_reduce"),
            *("aten.index_add", "aten.index_copy", "aten.index_fill"),
        ),
        scatter,
    ),
    "aten.index_put": index_put,
    "aten.one_hot": one_hot,
    **dict.fromkeys(("aten.eq", "aten.ne"), equal),
    **dict.fromkeys(("aten.sort", "aten.argsort"), sort_positions),
    **dict.fromkeys(("aten.floor_divide", "aten.div"), quotient),
    **dict.fromkeys(("aten.histc", "aten.bincount"), counts),
    "aten.cumsum": offsets,
    **dict.fromkeys(("aten._grouped_mm", "transformers.grouped_mm_fallback"), grouped_product),
}


def with_positions(call: Call, ordinary: Callable[[Call], list[AxisTerms]]) -> list[AxisTerms] | None:
    """Return the axes of the outputs of an operator on positions, if it has a rule for positions.

    Args:
        call: A call with labeled arguments.
        ordinary: The rule of the operator for plain integers.

    Returns:
        The axes of each output; None if the operator uses positions as plain integers.
    """
    name = call.operator.removesuffix("_") if call.operator != "aten.detach_" else call.operator
    if name in _SHAPE_ONLY and not call.operator.endswith("_"):
        return shape_only(call)
    if call.operator in _COMPLETE | _PARTIAL:
        return rearranged(call, ordinary, complete=call.operator in _COMPLETE)
    rule = _CONSUMERS.get(name)
    return None if rule is None else rule(call)


def rearranged(call: Call, ordinary: Callable[[Call], list[AxisTerms]], *, complete: bool) -> list[AxisTerms] | None:
    """Return the labeled outputs of an operator that copies or rearranges positions without changing their values.

    Args:
        call: ``view``, ``transpose``, ``slice``, ``to`` and the like.
        ordinary: The rule of the operator for plain integers.
        complete: Whether the output contains every element exactly once.

    Returns:
        The axes of each output, with labels; None if the operator uses positions as plain integers.
    """
    label = label_of(call.first)
    others = [value for value in list(call.arguments.values())[1:] if is_tensor(value) or isinstance(value, Positions)]
    dtype = call.arguments.get("dtype")
    if label is None or others or not can_hold(dtype, label):
        return None
    if call.operator == "aten.view" and dtype is not None:  # the bits of the positions are read as another dtype
        return None
    first = next(iter(call.arguments))
    found = ordinary(replace(call, arguments={**call.arguments, first: tuple(call.first)}))
    if not complete:
        if label.kind != "positions":
            return None
        label = replace(label, key=object())
    return [Positions.of(terms, replace(label, distinct=_kept(label.distinct, terms))) for terms in found]


def _kept(distinct: AxisTerm | None, terms: AxisTerms) -> AxisTerm | None:
    """Return the dimension along which positions are distinct, if the output still has it."""
    if distinct is None:
        return None
    return distinct if any(substitute(term) == substitute(distinct) for term in terms) else None


def shape_only(call: Call) -> list[AxisTerms]:
    """Return uniform axes for an operator that uses only the shape of its argument.

    Args:
        call: ``zeros_like``, ``empty_like``, ``full_like``.

    Returns:
        Uniform axes.
    """
    return [tuple(uniform(size) for size in shape) for shape in call.shapes]
