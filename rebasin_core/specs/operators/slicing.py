"""Operators that take tensors apart and put them together along a dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call, Terms
    from rebasin_core.specs.unification.terms import Term


def cat(call: Call) -> Result:
    """Lay tensors end to end along one dimension and tie the others.

    Args:
        call: ``cat(tensors, dim)``.

    Returns:
        The axes of the result.
    """
    tensors = [terms for terms in call.arguments["tensors"] if all(map(length, terms))]
    dim = call.arguments["dim"] % len(tensors[0])
    found = [
        call.concat([terms[dim] for terms in tensors])
        if place == dim
        else call.join(*(terms[place] for terms in tensors))
        for place in range(len(tensors[0]))
    ]
    return tuple(found)


def stack(call: Call) -> Result:
    """Stack tensors along a new dimension.

    Args:
        call: ``stack(tensors, dim)``.

    Returns:
        The axes of the result.
    """
    tensors: list[Terms] = call.arguments["tensors"]
    dim = call.arguments["dim"] % (len(tensors[0]) + 1)
    return stacked(call, tensors, dim)


def stacked(call: Call, tensors: Sequence[Terms], dim: int) -> Terms:
    """Return the axes of stacked tensors.

    Args:
        call: The operator.
        tensors: Their axes.
        dim: Where the new dimension goes.

    Returns:
        The axes of the result.
    """
    reason = call.because("slices are stacked in order")
    different = [place for place in range(len(tensors[0])) if len({terms[place] for terms in tensors}) > 1]
    found: list[Term] = list(tensors[0])
    if len(different) == 1:  # one axis may be another in every slice
        new, found[different[0]] = call.equations.stack([terms[different[0]] for terms in tensors], reason)
    else:
        new, _ = call.equations.stack([()] * len(tensors), reason)
        for place in different:
            found[place] = call.join(*(terms[place] for terms in tensors))
    return (*found[:dim], new, *found[dim:])


def split(call: Call) -> Result:
    """Cut a dimension into consecutive pieces.

    Args:
        call: ``split``, ``chunk``, ``tensor_split``, ``hsplit``.

    Returns:
        The axes of each piece.
    """
    dim = call.arguments.get("dim", 0)
    return call.pieces(call.first, dim, [shape[dim] for shape in call.shapes])


def unbind(call: Call) -> Result:
    """Take every slice along a dimension.

    Args:
        call: ``unbind(self, dim)``.

    Returns:
        The axes of each slice.
    """
    terms, dim = call.first, call.arguments["dim"]
    pieces = call.pieces(terms, dim, [1] * length(terms[dim]), "it is used one by one")
    return [_without(piece, dim) for piece in pieces]


def select(call: Call) -> Result:
    """Take one slice along a dimension.

    Args:
        call: ``select(self, dim, index)``.

    Returns:
        The axes of the slice.
    """
    terms, dim, index = call.first, call.arguments["dim"], call.arguments["index"]
    size = length(terms[dim])
    if not isinstance(index, int):
        call.freeze(terms[dim], "a slice is looked up")
        return _without(terms, dim)
    return _without(narrowed(call, terms, dim, index % size, 1), dim)


def slice_(call: Call) -> Result:
    """Take a range along a dimension.

    Args:
        call: ``slice(self, dim, start, end, step)``.

    Returns:
        The axes of the range.
    """
    terms = call.first
    dim = call.arguments["dim"] % len(terms)
    size, got = length(terms[dim]), call.shapes[0][dim]
    start = call.arguments["start"] or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    step = call.arguments["step"]
    if got == size:
        return terms
    if step == 1:
        return narrowed(call, terms, dim, start, got)
    if size % step == 0 and start < step and got == size // step:
        inner, outer = call.regroup([terms[dim]], [got, step])
        opened = (*terms[:dim], inner, outer, *terms[dim + 1 :])
        return _without(narrowed(call, opened, dim + 1, start, 1), dim + 1)
    call.freeze(terms[dim], "every so many are taken")
    return (*terms[:dim], call.fixed(got, "every so many are taken"), *terms[dim + 1 :])


def narrow(call: Call) -> Result:
    """Take a range along a dimension.

    Args:
        call: ``narrow(self, dim, start, length)``.

    Returns:
        The axes of the range.
    """
    dim, start = call.arguments["dim"], call.arguments["start"]
    return narrowed(call, call.first, dim, start, call.shapes[0][dim])


def narrowed(call: Call, terms: Terms, dim: int, start: int, size: int) -> Terms:
    """Return a range of a tensor along one dimension.

    Args:
        call: The operator.
        terms: The axes of the tensor.
        dim: The dimension.
        start: Where the range starts.
        size: Its length, at least 1.

    Returns:
        The axes of the range.
    """
    whole = length(terms[dim])
    if whole == size:
        return terms
    return call.pieces(terms, dim, [start, size, whole - start - size])[1 if start else 0]


def pad(call: Call) -> Result:
    """Lay constants around a tensor; other modes of padding copy positions and so fix them.

    Args:
        call: ``pad(self, pad, mode, value)`` or ``constant_pad_nd``.

    Returns:
        The axes of the result.
    """
    terms = list(call.first)
    amounts = call.arguments["pad"]
    constant = call.arguments.get("mode", "constant") == "constant"
    for place in range(len(amounts) // 2):
        dim = len(terms) - 1 - place
        before, after = amounts[2 * place : 2 * place + 2]
        if not (before or after):
            continue
        if not constant or before < 0 or after < 0:
            call.freeze(terms[dim], "positions are copied by padding")
            terms[dim] = call.fixed(call.shapes[0][dim], "positions are copied by padding")
            continue
        parts = [uniform(before), terms[dim], uniform(after)]
        terms[dim] = call.concat([part for part, size in zip(parts, (before, 1, after), strict=True) if size])
    return tuple(terms)


def _without(terms: Terms, dim: int) -> Terms:
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


@final
class SlicingRules(OperatorRules):
    """Rules of slicing, joining and padding."""

    name = "slicing"
    rules = RULES
