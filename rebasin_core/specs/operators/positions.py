"""Integer tensors whose values are positions along an axis, such as the experts that a router selects.

If the axis is permuted, the values of such a tensor change to the new positions of the same units. The rules for
positions propagate this meaning from `topk` to lookups, writes, comparisons and sorting, so the axis stays free. For
any other operator the values are plain integers, and the axis is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, final

import torch

from rebasin_core.specs.unification.induced import InducedAxis
from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Variable, length, substitute

if TYPE_CHECKING:
    from rebasin_core.specs.operators.call import Call

AS_INTEGERS: Final = "positions along it are used as integers"
"""Reason to fix an axis if an operator without a rule for positions uses positions along it."""


@final
@dataclass(frozen=True, slots=True)
class Label:
    """The meaning of the values of an integer tensor.

    Attributes:
        along: The axis along which the values are positions.
        kind: ``positions``; ``counts``, the number of occurrences of each position; or ``offsets``, the cumulative sum
            of counts. Counts and offsets have one entry for each position along the axis.
        key: Identity of the positions, preserved if they are sorted or reshaped.
        distinct: A dimension along which no position occurs twice; None if there is none.
        why: Reason to fix the axis if the values are used as integers.
    """

    along: AxisTerm
    kind: Literal["positions", "counts", "offsets"] = "positions"
    key: object = field(default_factory=object)
    distinct: AxisTerm | None = None
    why: str = AS_INTEGERS


@final
class Positions(tuple[AxisTerm, ...]):  # ruff: ignore[no-slots-in-tuple-subclass] - a tuple with an attribute
    """The axes of a tensor whose values are positions, with a label for their meaning."""

    label: Label

    @classmethod
    def of(cls, terms: AxisTerms, label: Label) -> Positions:
        """Return labeled axes.

        Args:
            terms: The axes of a tensor.
            label: The meaning of its values.

        Returns:
            The axes with the label.
        """
        found = cls(terms)
        found.label = label
        return found


def label_of(value: object) -> Label | None:
    """Return the meaning of the values of a tensor.

    Args:
        value: The axes of a tensor, or any argument.

    Returns:
        Its label, or None for a tensor without one.
    """
    return value.label if isinstance(value, Positions) else None


def labels_in(value: object) -> list[Label]:
    """Return the labels of an argument or result.

    Args:
        value: The axes of a tensor, another value, or nested lists and dictionaries of these.

    Returns:
        The labels, in order.
    """
    if isinstance(value, Positions):
        return [value.label]
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [found for item in items for found in labels_in(item)]


def as_integers(call: Call) -> Call:
    """Fix the axes that arguments are positions along, and return the call without labels.

    Args:
        call: Any call.

    Returns:
        The call with plain integers as arguments.
    """
    return replace(call, arguments={name: _plain(call, value) for name, value in call.arguments.items()})


def _plain(call: Call, value: Any) -> Any:  # ruff: ignore[any-type] - an argument
    if isinstance(value, Positions):
        if value.label.kind == "offsets":
            for term in value:
                call.freeze(term, value.label.why)
        elif value.label.kind == "positions":
            call.freeze(value.label.along, value.label.why)
        return tuple(value)
    if isinstance(value, list):
        return [_plain(call, item) for item in value]
    return value


def is_distinct(label: Label, term: AxisTerm) -> bool:
    """Return whether no position occurs twice along a dimension.

    Args:
        label: The meaning of the positions.
        term: The axis of the dimension.

    Returns:
        True only if the label guarantees it.
    """
    return label.distinct is not None and substitute(label.distinct) == substitute(term)


def are_positions(*values: object) -> bool:
    """Return whether no tensor has a label of counts or offsets.

    Args:
        *values: The axes of tensors, with or without labels.

    Returns:
        False if any tensor holds counts or offsets.
    """
    labels = [label for label in map(label_of, values) if label is not None]
    return all(label.kind == "positions" for label in labels)


def can_hold(dtype: torch.dtype | None, label: Label) -> bool:
    """Return whether tensors of a dtype represent positions exactly.

    Args:
        dtype: The dtype; None if it does not change.
        label: The meaning of the values.

    Returns:
        True if the last position is exact. Counts and offsets may be larger than any position, so for them True only
        for ``int32`` and ``int64``. False for dtypes of one byte: in an index, some of them are masks.
    """
    if dtype is None or dtype in {torch.int32, torch.int64}:
        return True
    if label.kind != "positions" or dtype.itemsize == 1 or dtype.is_complex:
        return False
    # A float has 1 - log2(eps) significant bits, so the integers up to 2 / eps are exact.
    largest = 2 / torch.finfo(dtype).eps if dtype.is_floating_point else torch.iinfo(dtype).max
    return length(label.along) - 1 <= largest


def tie_indexed(call: Call, term: AxisTerm, label: Label | None) -> AxisTerm:
    """Tie an indexed dimension to the axis that the index holds positions along; fix it if the index has no label.

    Args:
        call: The call.
        term: The axis of the indexed dimension.
        label: The label of the index.

    Returns:
        The unified or fixed axis.
    """
    if label is None:
        return call.freeze(term, "its entries are looked up by index")
    if length(term) != length(label.along):
        call.freeze(label.along, label.why)
        return call.freeze(term, label.why)
    return call.unify(term, label.along)


def tie(call: Call, first: AxisTerm, second: AxisTerm) -> AxisTerm:
    """Tie two dimensions of equal length; fix both if their lengths differ.

    Args:
        call: The call.
        first: The axis of one dimension.
        second: The axis of the other.

    Returns:
        The unified or fixed axis of the first dimension.
    """
    if length(first) == length(second):
        return call.unify(first, second)
    call.freeze(second, "only its first entries are written")
    return call.freeze(first, "only its first entries are written")


def induced_axis(call: Call, term: AxisTerm) -> InducedAxis | None:
    """Return the induced axis of a dimension, if its order is induced by another axis.

    Args:
        call: The call.
        term: The axis of the dimension.

    Returns:
        The induced axis, or None.
    """
    match substitute(term):
        case (Variable() as variable,):
            return call.constraints.induced.get(variable)
    return None


def induce(call: Call, axis: AxisTerm, source: AxisTerm, rows: AxisTerms, key: object) -> None:
    """Record that the order of an axis is induced by another axis.

    Args:
        call: The call.
        axis: The induced axis.
        source: The axis whose permutation determines the order.
        rows: Axes such that the order may differ in each of their units.
        key: Identity of the sorted positions; see `InducedAxis`.
    """
    for variable in axis:
        if isinstance(variable, Variable):
            call.constraints.induced[variable] = InducedAxis(variable, source, rows, key)
