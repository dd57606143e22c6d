"""Lookups, writes and comparisons with positions along an axis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.indexing import has_masks
from rebasin_core.specs.operators.positions import (
    Positions,
    are_positions,
    induced_axis,
    is_distinct,
    label_of,
    tie,
    tie_indexed,
)
from rebasin_core.specs.unification.terms import AxisTerms, length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.call import Call


def index(call: Call) -> list[AxisTerms] | None:
    """Look up elements by position; the dimensions of the index tensors replace the indexed dimensions.

    Args:
        call: ``index(self, indices)``.

    Returns:
        The axes of the result; None if an index tensor is a mask.
    """
    if has_masks(call):
        return None
    terms = call.tensor("self")
    given = {dim: item for dim, item in enumerate(call.arguments["indices"]) if is_tensor(item)}
    dims = list(given)
    kept = [term for dim, term in enumerate(terms) if dim not in dims]
    if not dims or not are_positions(terms, *given.values()):
        return None
    start = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    if not all(_is_induced_by(call, item) for item in given.values()):
        call.reduce(terms, dims)
    for dim, item in given.items():
        tie_indexed(call, terms[dim], label_of(item))
    found = call.broadcast(*(tuple(item) for item in given.values()))
    return [_relabel(terms, (*kept[:start], *found, *kept[start:]))]


def index_select(call: Call) -> list[AxisTerms] | None:
    """Look up elements by position along one dimension.

    Args:
        call: ``index_select(self, dim, index)`` or ``embedding(weight, indices)``.

    Returns:
        The axes of the result.
    """
    if call.operator == "aten.embedding":
        terms, dim, chosen = call.tensor("weight"), 0, call.tensor("indices")
    else:
        terms, chosen = call.tensor("self"), call.tensor("index")
        dim = call.arguments["dim"] % max(len(terms), 1)
    if not terms or not are_positions(terms, chosen):
        return None
    if not _is_induced_by(call, chosen):
        call.reduce(terms, [dim])
    tie_indexed(call, terms[dim], label_of(chosen))
    return [_relabel(terms, (*terms[:dim], *chosen, *terms[dim + 1 :]))]


def gather(call: Call) -> list[AxisTerms] | None:
    """Look up elements by position along one dimension; tie the other dimensions to the index tensor.

    Args:
        call: ``gather(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms, chosen = call.tensor("self"), call.tensor("index")
    if not terms or len(chosen) != len(terms) or not are_positions(terms, chosen):
        return None
    dim = call.arguments["dim"] % len(terms)
    call.reduce(terms, [dim])
    found = list(chosen)
    for other, (term, own) in enumerate(zip(terms, chosen, strict=True)):
        if other == dim:
            tie_indexed(call, term, label_of(chosen))
        elif length(term) == length(own):
            found[other] = call.unify(term, own)
        else:
            call.freeze(term, "only its first entries are looked up")
            found[other] = call.freeze(own, "only its first entries are looked up")
    return [_relabel(terms, tuple(found))]


def _is_induced_by(call: Call, chosen: AxisTerms) -> bool:
    """Return whether the axis of an index tensor is induced by sorting its own positions.

    The other dimensions of the table may then be permuted differently at each position, because each element of the
    sorted axis belongs to one position.
    """
    label = label_of(chosen)
    one = induced_axis(call, chosen[0]) if len(chosen) == 1 else None
    return label is not None and one is not None and one.key is label.key


def _relabel(source: object, terms: AxisTerms) -> AxisTerms:
    """Label the looked-up elements as positions if the table holds positions."""
    label = label_of(source)
    return terms if label is None else Positions.of(terms, replace(label, key=object(), distinct=None))


def scatter(call: Call) -> list[AxisTerms] | None:
    """Write at positions along one dimension, if the result does not depend on the order of the writes.

    Args:
        call: ``scatter``, ``scatter_add``, ``scatter_reduce``, ``index_add``, ``index_copy``, ``index_fill``.

    Returns:
        The axes of the result; None if the positions are used as plain integers.
    """
    terms, chosen = call.tensor("self"), call.tensor("index")
    source = call.optional("src") or call.optional("source")
    label = label_of(chosen)
    if not terms or label_of(terms) is not None or label_of(source) is not None:
        return None
    if label is None or label.kind != "positions":
        return None
    dim = call.arguments["dim"] % len(terms)
    by_line = len(chosen) == 1 and call.operator.startswith("aten.index")
    line = chosen[0] if by_line else chosen[dim]
    adds = "add" in call.operator or call.arguments.get("reduce") in {"sum", "amax", "amin", "mean", "prod"}
    if source is not None and not adds and not is_distinct(label, line):
        return None
    given = [other for other in (() if by_line else tuple(chosen), source) if other]
    if any(len(other) != len(terms) for other in given):
        return None
    found = list(terms)
    found[dim] = tie_indexed(call, terms[dim], label)
    if source is not None:
        tie(call, source[dim], line)
    for other in range(len(terms)):
        for one in given:
            if other != dim:
                found[other] = tie(call, found[other], one[other])
    call.reduce(tuple(found), [dim])
    return [tuple(found)]


def index_put(call: Call) -> list[AxisTerms] | None:
    """Write at positions along the first dimension: all distinct positions, or accumulated values.

    Args:
        call: ``index_put(self, indices, values, accumulate)``.

    Returns:
        The axes of the result; None if the positions are used as plain integers or as a mask.
    """
    terms, values, indices = call.tensor("self"), call.tensor("values"), call.arguments["indices"]
    one_index = len(indices) == 1 and is_tensor(indices[0]) and len(indices[0]) == 1
    if not one_index or has_masks(call) or label_of(terms) is not None:
        return None
    (chosen,) = indices
    label, written = label_of(chosen), label_of(values)
    covers = label is not None and is_distinct(label, chosen[0]) and length(chosen[0]) == length(terms[0])
    if label is None or label.kind != "positions" or not (covers or call.arguments.get("accumulate")):
        return None
    if written is not None and not (covers and len(terms) == 1 and written.kind == "positions"):
        return None
    if len(values) not in {0, len(terms)}:
        return None
    found = (tie_indexed(call, terms[0], label), *terms[1:])
    if values:
        tie(call, values[0], chosen[0])
        found = (found[0], *(tie(call, term, own) for term, own in zip(found[1:], values[1:], strict=True)))
    if written is None:
        return [found]
    one_to_one = found[0] if written.distinct is not None else None
    return [Positions.of(found, replace(written, key=object(), distinct=one_to_one))]


def one_hot(call: Call) -> list[AxisTerms] | None:
    """Add a dimension with one-hot codes of positions; classes beyond the length of the axis are fixed.

    Args:
        call: ``one_hot(self, num_classes)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    label = label_of(terms)
    if label is None or label.kind != "positions":
        return None
    more = call.shapes[0][-1] - length(label.along)
    if more < 0 or call.arguments.get("num_classes", -1) < 0:
        return None
    classes = label.along if not more else call.concat([label.along, call.fixed(more, "classes beyond the positions")])
    return [(*terms, classes)]


def equal(call: Call) -> list[AxisTerms] | None:
    """Compare two tensors of positions and tie the axes that they are positions along.

    Args:
        call: ``eq`` or ``ne`` of two tensors.

    Returns:
        The axes of the result.
    """
    tensors = [value for value in call.arguments.values() if is_tensor(value)]
    labels = [label_of(value) for value in tensors]
    if len(tensors) != 2 or labels[0] is None or labels[1] is None:
        return None
    if {labels[0].kind, labels[1].kind} != {"positions"} or length(labels[0].along) != length(labels[1].along):
        return None
    call.unify(labels[0].along, labels[1].along)
    return [call.broadcast(*(tuple(value) for value in tensors))]
