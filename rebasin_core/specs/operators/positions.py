"""Integer tensors whose values are positions along an axis: a router's choice of experts, say.

If the axis is permuted, such a tensor's values are replaced by the new positions of the same units. The rules below
carry this meaning from `topk` to lookups, writings, comparisons and sorting, so that the axis need not be fixed. Every
other operator sees mere numbers, for which the axis is fixed first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, final

from rebasin_core.specs.unification.induced import InducedAxis
from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Variable, length, substitute

if TYPE_CHECKING:
    from rebasin_core.specs.operators.call import Call

NUMBERS: Final = "positions along it are used as numbers"
"""Why an axis is fixed along which positions are used otherwise than the rules allow."""


@final
@dataclass(frozen=True, slots=True)
class Label:
    """The meaning of the values of an integer tensor.

    Attributes:
        along: The axis along which the values are positions.
        kind: ``positions``; ``counts`` for how often each position occurs, along the axis itself; ``offsets`` for the
            cumulative sums of counts.
        key: Identifies the positions, whatever their order and shape.
        distinct: A dimension along which no position occurs twice; None if there is none.
        why: Why the axis is fixed if the values are used as numbers.
    """

    along: AxisTerm
    kind: Literal["positions", "counts", "offsets"] = "positions"
    key: object = field(default_factory=object)
    distinct: AxisTerm | None = None
    why: str = NUMBERS


@final
class Positions(tuple[AxisTerm, ...]):  # ruff: ignore[no-slots-in-tuple-subclass] - a tuple with an attribute
    """The axes of a tensor whose values are positions, with their meaning."""

    label: Label

    @classmethod
    def of(cls, terms: AxisTerms, label: Label) -> Positions:
        """Return the axes of a tensor with the meaning of its values.

        Args:
            terms: The axes.
            label: The meaning.

        Returns:
            Both.
        """
        found = cls(terms)
        found.label = label
        return found


def label_of(value: object) -> Label | None:
    """Return the meaning of the values of a tensor.

    Args:
        value: The axes of a tensor, or any argument.

    Returns:
        Its label, or None for mere numbers.
    """
    return value.label if isinstance(value, Positions) else None


def labels_in(value: object) -> list[Label]:
    """Return the labels of an argument or result.

    Args:
        value: A tensor, anything else, or nested lists of them.

    Returns:
        The labels, in order.
    """
    if isinstance(value, Positions):
        return [value.label]
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [found for item in items for found in labels_in(item)]


def as_numbers(call: Call) -> Call:
    """Return a call whose arguments are mere numbers: the axes that they are positions along are fixed.

    Args:
        call: Any call.

    Returns:
        The same call without labels.
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
        Whether it is known that none does.
    """
    return label.distinct is not None and substitute(label.distinct) == substitute(term)


def are_positions(*values: object) -> bool:
    """Return whether all labels are those of positions; counts and offsets are looked up as numbers.

    Args:
        *values: The axes of tensors, with labels or without.

    Returns:
        False if any are counts or offsets.
    """
    labels = [label for label in map(label_of, values) if label is not None]
    return all(label.kind == "positions" for label in labels)


def pointed_at(call: Call, term: AxisTerm, label: Label | None) -> AxisTerm:
    """Tie a dimension to the axis along which an index has positions; for mere numbers, fix it.

    Args:
        call: The operator.
        term: The axis of the dimension.
        label: The meaning of the index; None for mere numbers.

    Returns:
        The axis.
    """
    if label is None:
        return call.freeze(term, "its entries are looked up by number")
    if length(term) != length(label.along):
        call.freeze(label.along, label.why)
        return call.freeze(term, label.why)
    return call.unify(term, label.along)


def tied(call: Call, first: AxisTerm, second: AxisTerm) -> AxisTerm:
    """Tie two dimensions of equal length; of unequal ones, fix both.

    Args:
        call: The operator.
        first: The axis of one dimension.
        second: The axis of the other.

    Returns:
        The axis of the first.
    """
    if length(first) == length(second):
        return call.unify(first, second)
    call.freeze(second, "only the first elements are written")
    return call.freeze(first, "only the first elements are written")


def induced_axis(call: Call, term: AxisTerm) -> InducedAxis | None:
    """Return the induced axis that a dimension is, if it is one.

    Args:
        call: The operator.
        term: The axis of the dimension.

    Returns:
        The induced axis, or None.
    """
    match substitute(term):
        case (Variable() as variable,):
            return call.constraints.induced.get(variable)
    return None


def induce(call: Call, axis: AxisTerm, source: AxisTerm, rows: AxisTerms, key: object) -> None:
    """Record that the order of an axis follows from another axis.

    Args:
        call: The operator.
        axis: The axis.
        source: The axis that it follows from.
        rows: Axes in each unit of which the order may be another.
        key: Identifies the positions that were sorted; see `InducedAxis`.
    """
    for variable in axis:
        if isinstance(variable, Variable):
            call.constraints.induced[variable] = InducedAxis(variable, source, rows, key)
