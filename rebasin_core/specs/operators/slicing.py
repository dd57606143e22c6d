"""Operators that split, concatenate, stack and pad tensors along a dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_constant, is_tensor
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_STACKED = "slices are stacked along it"
_COMPUTED = "its range is computed"


def cat(call: Call) -> Result:
    """Concatenate tensors along one dimension and tie the others.

    Args:
        call: ``cat(tensors, dim)``.

    Returns:
        The axes of the result.
    """
    tensors = [terms for terms in call.arguments["tensors"] if all(map(length, terms))]
    dim = call.arguments["dim"] % len(tensors[0])
    found = [
        call.concat([terms[dim] for terms in tensors])
        if other == dim
        else call.relate(Relation.EQUAL, *(terms[other] for terms in tensors))
        for other in range(len(tensors[0]))
    ]
    return tuple(found)


def stack(call: Call) -> Result:
    """Stack tensors along a new dimension.

    Args:
        call: ``stack(tensors, dim)``.

    Returns:
        The axes of the result.
    """
    tensors: list[AxisTerms] = call.arguments["tensors"]
    dim = call.arguments["dim"] % (len(tensors[0]) + 1)
    return stacked(call, tensors, dim)


def stacked(call: Call, tensors: Sequence[AxisTerms], dim: int) -> AxisTerms:
    """Return the axes of stacked tensors.

    Args:
        call: The operator.
        tensors: The axes of each tensor.
        dim: Index of the new dimension.

    Returns:
        The axes of the result.
    """
    different = [other for other in range(len(tensors[0])) if len({terms[other] for terms in tensors}) > 1]
    found: list[AxisTerm] = list(tensors[0])
    if len(different) == 1:  # one dimension may be a different axis in each slice
        (only,) = different
        new, found[only] = call.stack([terms[only] for terms in tensors], _STACKED)
    else:
        new, _ = call.stack([()] * len(tensors), _STACKED)
        for other in different:
            found[other] = call.relate(Relation.EQUAL, *(terms[other] for terms in tensors))
    return (*found[:dim], new, *found[dim:])


def split(call: Call) -> Result:
    """Split a dimension into consecutive parts.

    Args:
        call: ``split``, ``chunk``, ``tensor_split``, ``hsplit``. Computed bounds fix the dimension.

    Returns:
        The axes of each part.
    """
    dim = call.arguments.get("dim", 0)
    if call.optional("tensor_indices_or_sections") is not None and not is_constant(
        call.example("tensor_indices_or_sections")
    ):
        return [call.mix(call.first, {dim % len(call.first): shape[dim]}, _COMPUTED) for shape in call.shapes]
    return call.split(call.first, dim, [shape[dim] for shape in call.shapes])


def unbind(call: Call) -> Result:
    """Return all slices along a dimension.

    Args:
        call: ``unbind(self, dim)``.

    Returns:
        The axes of each slice.
    """
    terms = call.first
    dim = call.arguments["dim"]
    slices = call.split(terms, dim, [1] * length(terms[dim]), "its entries are used individually")
    return [_without(part, dim) for part in slices]


def select(call: Call) -> Result:
    """Return one slice along a dimension.

    Args:
        call: ``select(self, dim, index)``.

    Returns:
        The axes of the slice.
    """
    terms = call.first
    dim = call.arguments["dim"]
    index = call.arguments["index"]
    size = length(terms[dim])
    if not isinstance(index, int):
        call.freeze(terms[dim], "a slice is selected by a computed index")
        return _without(terms, dim)
    return _without(narrowed(call, terms, dim, index % size, 1), dim)


def slice_(call: Call) -> Result:
    """Return a range along a dimension, possibly with a step.

    Args:
        call: ``slice(self, dim, start, end, step)``.

    Returns:
        The axes of the range.
    """
    terms = call.first
    dim = call.arguments["dim"] % len(terms)
    size = length(terms[dim])
    new_size = call.shapes[0][dim]
    start = call.arguments["start"] or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    step = call.arguments["step"]
    if new_size == size:
        return terms
    if step == 1:
        return narrowed(call, terms, dim, start, new_size)
    if size % step == 0 and start < step and new_size == size // step:
        inner, outer = call.reshape([terms[dim]], [new_size, step])
        opened = (*terms[:dim], inner, outer, *terms[dim + 1 :])
        return _without(narrowed(call, opened, dim + 1, start, 1), dim + 1)
    return call.mix(terms, {dim: new_size}, "a slice with a step is used")


def narrow(call: Call) -> Result:
    """Return a range along a dimension.

    Args:
        call: ``narrow(self, dim, start, length)``. A computed start fixes the dimension.

    Returns:
        The axes of the range.
    """
    dim = call.arguments["dim"] % len(call.first)
    start = call.arguments["start"]
    if is_tensor(start):
        value = call.example("start")
        if not is_constant(value):
            return call.mix(call.first, {dim: call.shapes[0][dim]}, _COMPUTED)
        start = int(value)
    start += length(call.first[dim]) if start < 0 else 0
    return narrowed(call, call.first, dim, start, call.shapes[0][dim])


def narrowed(call: Call, terms: AxisTerms, dim: int, start: int, size: int) -> AxisTerms:
    """Return a range of a tensor along one dimension.

    Args:
        call: The operator.
        terms: The axes of the tensor.
        dim: The dimension.
        start: First index of the range.
        size: Length of the range, at least 1.

    Returns:
        The axes of the range.
    """
    whole = length(terms[dim])
    if whole == size:
        return terms
    return call.split(terms, dim, [start, size, whole - start - size])[1 if start else 0]


def pad(call: Call) -> Result:
    """Concatenate a tensor with constants; the other padding modes copy positions and fix the dimension.

    Args:
        call: ``pad(self, pad, mode, value)`` or ``constant_pad_nd``.

    Returns:
        The axes of the result.
    """
    terms = list(call.first)
    amounts = call.arguments["pad"]
    constant = call.arguments.get("mode", "constant") == "constant"
    if call.arguments.get("value"):
        for term in terms:
            call.see(term, Sight.ANY, "entries are padded with a number")
    for number in range(len(amounts) // 2):  # amounts are given from the last dimension backward
        dim = len(terms) - 1 - number
        before, after = amounts[2 * number : 2 * number + 2]
        if not (before or after):
            continue
        if not constant or before < 0 or after < 0:
            terms = list(call.mix(tuple(terms), {dim: call.shapes[0][dim]}, "positions are copied by padding"))
            continue
        is_zero = not call.arguments.get("value")
        parts = [uniform(before, is_zero=is_zero), terms[dim], uniform(after, is_zero=is_zero)]
        terms[dim] = call.concat([part for part, size in zip(parts, (before, 1, after), strict=True) if size])
    return tuple(terms)


def _without(terms: AxisTerms, dim: int) -> AxisTerms:
    dim %= len(terms)
    return (*terms[:dim], *terms[dim + 1 :])


_SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")

RULES: dict[str, Rule] = {
    **{f"aten.{name}": split for name in _SPLITS},
    **{f"aten.{name}": cat for name in ("cat", "concat", "concatenate")},
    **{f"aten.{name}": pad for name in ("pad", "constant_pad_nd")},
    **{f"aten.{name}": slice_ for name in ("slice", "slice_copy")},
    "aten.narrow": narrow,
    "aten.select": select,
    "aten.stack": stack,
    "aten.unbind": unbind,
}

SIGHTS: Sights = dict.fromkeys(RULES, Sight.COPY)


@final
class SlicingRules(OperatorRules):
    """Rules for splitting, concatenating, stacking and padding."""

    name = "slicing"
    rules = RULES
    sights = SIGHTS
