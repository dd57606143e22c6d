"""Operators that return positions, sort positions, or count them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_core.specs.operators.positions import Label, Positions, can_hold, induce, induced_axis, label_of
from rebasin_core.specs.unification.terms import AxisTerms, fresh, has_uniform, length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.call import Call


def topk(call: Call) -> list[AxisTerms] | None:
    """Return the largest or sorted elements, and label their indices as positions; the dimension stays free.

    Args:
        call: ``topk(self, k, dim, largest, sorted)``, or ``sort(self, stable, dim, descending)``.

    Returns:
        The axes of the values, and of the positions.
    """
    terms = call.tensor("self")
    if not terms:
        return None
    dim = call.arguments["dim"] % len(terms)
    along = terms[dim]
    if has_uniform(along) or label_of(terms) is not None:
        return None
    call.reduce(terms, [dim])
    size = call.shapes[0][dim]
    rest = (*terms[:dim], *terms[dim + 1 :])
    if call.arguments.get("sorted", True):
        slots = call.fixed(size, "the order of its elements matters")
    else:  # the order is unspecified: it may depend on the positions and differ between rows
        slots = fresh(size)
        induce(call, slots, along, rest, None)
    found = (*terms[:dim], slots, *terms[dim + 1 :])
    return [found, Positions.of(found, Label(along, distinct=slots))][-len(call.shapes) :]


def extremum(call: Call) -> list[AxisTerms] | None:
    """Return an extremum, and label its index as a position; the dimension stays free.

    Args:
        call: ``max.dim``, ``min.dim``, ``argmax`` or ``argmin``.

    Returns:
        The axes of the value, if it is returned, and of the position.
    """
    terms = call.tensor("self")
    dim = call.arguments.get("dim")
    if call.optional("other") is not None or not isinstance(dim, int) or not terms:
        return None
    dim %= len(terms)
    if has_uniform(terms[dim]) or label_of(terms) is not None:
        return None
    call.reduce(terms, [dim])
    middle: AxisTerms = ((),) if call.arguments.get("keepdim") else ()
    found = (*terms[:dim], *middle, *terms[dim + 1 :])
    return [found, Positions.of(found, Label(terms[dim]))][-len(call.shapes) :]


def arange(call: Call) -> list[AxisTerms] | None:
    """Return all positions along a new axis, in order: a permutation of the axis permutes the positions identically.

    Args:
        call: ``arange(end)`` with start 0 and step 1.

    Returns:
        One axis; the values are positions along it.
    """
    start, step = call.arguments.get("start", 0), call.arguments.get("step", 1)
    dtype = call.arguments.get("dtype")
    if (start, step) != (0, 1) or (dtype is not None and dtype.is_floating_point) or call.shapes[0] == (1,):
        return None
    (size,) = call.shapes[0]
    if call.arguments.get("end") != size:
        return None
    axis = fresh(size)
    label = Label(axis, distinct=axis, why="values vary along it")
    return [Positions.of((axis,), label)] if can_hold(dtype, label) else None


def sort_positions(call: Call) -> list[AxisTerms] | None:
    """Sort positions: the order of the sorted axis is induced by the axis that they are positions along.

    Args:
        call: ``sort`` or ``argsort`` of positions along one dimension.

    Returns:
        The axes of the sorted positions, and of their indices before sorting.
    """
    terms = call.tensor("self")
    label = label_of(terms)
    if label is None or label.kind != "positions" or len(terms) != 1:
        return None
    along = terms[0]
    call.reduce(tuple(terms), [0])
    arranged = fresh(length(along))
    induce(call, arranged, label.along, (), label.key)
    found: list[AxisTerms] = [
        Positions.of((arranged,), replace(label, distinct=None)),
        Positions.of((arranged,), Label(along, distinct=arranged)),
    ]
    return found[-len(call.shapes) :]


def quotient(call: Call) -> list[AxisTerms] | None:
    """Divide positions along a product ``v*w`` by the length of w: the result holds positions along v.

    Args:
        call: ``floor_divide(self, other)`` or ``div(self, other, rounding_mode="floor")``.

    Returns:
        The axes of the result.
    """
    terms, divisor = call.first, call.arguments.get("other")
    label = label_of(terms)
    if label is None or label.kind != "positions" or not isinstance(divisor, int) or divisor < 1:
        return None
    if call.operator == "aten.div" and call.arguments.get("rounding_mode") not in {"floor", "trunc"}:
        return None
    size = length(label.along)
    if size % divisor:
        return None
    outer = call.reshape([label.along], [size // divisor, divisor])[0]
    return [Positions.of(tuple(terms), Label(outer, why=label.why))]


def counts(call: Call) -> list[AxisTerms] | None:
    """Count the occurrences of each position.

    Args:
        call: ``histc`` or ``bincount`` with one bin per position.

    Returns:
        The axis of the positions, labeled as counts.
    """
    terms = call.first
    label = label_of(terms)
    if label is None or label.kind != "positions":
        return None
    size = length(label.along)
    whole = (call.arguments.get("bins"), call.arguments.get("min"), call.arguments.get("max")) == (size, 0, size - 1)
    if call.operator == "aten.bincount":
        whole = call.optional("weights") is None
    if not whole or call.shapes[0] != (size,):
        return None
    return [Positions.of((label.along,), replace(label, kind="counts", distinct=None))]


def offsets(call: Call) -> list[AxisTerms] | None:
    """Sum counts cumulatively: the end of each position's segment in the sorted positions.

    Args:
        call: ``cumsum`` of counts.

    Returns:
        The axis of the counts, labeled as offsets.
    """
    terms = call.first
    label = label_of(terms)
    if label is None or label.kind != "counts":
        return None
    return [Positions.of(tuple(terms), replace(label, kind="offsets", why="the order of its elements matters"))]


def grouped_product(call: Call) -> list[AxisTerms] | None:
    """Multiply each segment of the sorted rows by the matrix at its position.

    Args:
        call: ``_grouped_mm(self, mat2, offs)`` with rows ``[rows, in]`` and matrices ``[experts, in, out]``.

    Returns:
        The axes of the product.
    """
    rows, matrices, bounds = list(call.arguments.values())[:3]
    label = label_of(bounds)
    if label is None or label.kind != "offsets" or len(rows) != 2 or len(matrices) != 3:
        return None
    if call.optional("bias") is not None:
        return None
    one = induced_axis(call, rows[0])
    if one is None or one.key is not label.key:
        return None
    call.unify(matrices[0], bounds[0])
    call.contract(rows[1], matrices[1], (rows[0],))
    return [(rows[0], matrices[2])]
