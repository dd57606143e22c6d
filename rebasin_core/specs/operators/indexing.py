"""Lookup by index: the indexed axis is fixed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.elementwise import elementwise
from rebasin_core.specs.unification.terms import differences, length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_LOOKED_UP = "its entries are looked up by number"


def embedding(call: Call) -> Result:
    """Fix the rows of the table; its columns become the features.

    Args:
        call: ``embedding(weight, indices)``.

    Returns:
        The axes of the result.
    """
    rows, columns = call.tensor("weight")
    call.freeze(rows, _LOOKED_UP)
    return (*call.tensor("indices"), columns)


def embedding_bag(call: Call) -> Result:
    """Fix the rows of the table and the order of the indices; its columns become the features of every bag.

    Args:
        call: ``embedding_bag(weight, indices, offsets, ...)``.

    Returns:
        The axes of the bags, and of what is remembered about them.
    """
    rows, columns = call.tensor("weight")
    for terms in [terms for terms in call.tensors if terms != (rows, columns)]:
        for term in terms:
            call.freeze(term, _LOOKED_UP)
    call.freeze(rows, _LOOKED_UP)
    fixed = call.all_fixed(_LOOKED_UP)
    return [(terms[0], columns) if len(terms) == 2 else terms for terms in fixed]


def index(call: Call) -> Result:
    """Fix the indexed dimensions; the dimensions of the index tensors replace them.

    Args:
        call: ``index(self, indices)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    indices = [item if is_tensor(item) else None for item in call.arguments["indices"]]
    dims = [dim for dim, item in enumerate(indices) if item is not None]
    if not dims:
        return terms
    given: list[AxisTerms] = [item for item in indices if item is not None]
    examples = [item for item in call.example("indices") or [] if item is not None]
    masks = [is_mask(example) for example in examples]
    if any(mask and len(item) > 1 for mask, item in zip(masks, given, strict=True)):
        return frozen(call)
    if len(given) == 1 and (chosen := constant_index(examples[0], length(terms[dims[0]]))) is not None:
        return picked(call, terms, dims[0], chosen)
    kept = [term for dim, term in enumerate(terms) if dim not in dims]
    looked = max(len(item) for item in given)
    call.reduce(terms, dims)
    for dim in dims:
        call.freeze(terms[dim], _LOOKED_UP)
    start = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    if any(masks):
        for term in (term for item in given for term in item):
            call.freeze(term, _LOOKED_UP)
        found = tuple(call.fixed(size, _LOOKED_UP) for size in call.shapes[0][start : start + looked])
    else:
        found = call.broadcast(*given)
    return (*kept[:start], *found, *kept[start:])


def index_select(call: Call) -> Result:
    """Fix the indexed dimension; the dimension of the index tensor replaces it.

    Args:
        call: ``index_select(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    dim = call.arguments["dim"] % len(terms)
    chosen = constant_index(call.example("index"), length(terms[dim]))
    if chosen is not None:
        return picked(call, terms, dim, chosen)
    call.reduce(terms, [dim])
    call.freeze(terms[dim], _LOOKED_UP)
    return (*terms[:dim], call.tensor("index")[0] if call.tensor("index") else (), *terms[dim + 1 :])


def picked(call: Call, terms: AxisTerms, dim: int, chosen: Sequence[int]) -> AxisTerms:
    """Return the axes of some elements of a tensor along a dimension; consecutive ones remain one axis.

    Args:
        call: The operator.
        terms: The axes of the tensor.
        dim: The dimension.
        chosen: The numbers of the elements, from 0; at least one.

    Returns:
        The axes of the result.
    """
    size = length(terms[dim])
    bounds = [0, *(at for at, (one, other) in enumerate(pairwise(chosen), 1) if other != one + 1), len(chosen)]
    runs = [(chosen[start], chosen[end - 1] + 1) for start, end in pairwise(bounds)]
    if runs == [(0, size)]:
        return terms
    edges = sorted({0, size, *(edge for run in runs for edge in run)})
    parts = call.split(terms, dim, differences(edges), "it is chosen by number")
    places = {start: place for place, start in enumerate(edges[:-1])}
    slices = [part for start, end in runs for part in parts[places[start] : places.get(end)]]
    found: list[AxisTerm] = []
    for other in range(len(terms)):
        along = [part[other] for part in slices]
        found.append(call.concat(along) if other == dim else call.unify(*along))
    return tuple(found)


def constant_index(example: object, size: int) -> list[int] | None:
    """Return the elements that an index tensor chooses, if the code of the model fixes them and there are few.

    Args:
        example: What is known about the index tensor.
        size: The length of the dimension that it indexes.

    Returns:
        Numbers from 0 to ``size - 1``, or None.
    """
    if not isinstance(example, Tensor) or type(example) is not Tensor or example.device.type == "meta":
        return None
    if example.dim() != 1 or not 0 < len(example) <= _FEW or example.is_floating_point():
        return None
    values = example.nonzero()[:, 0] if example.dtype == torch.bool else example % size
    return [int(value) for value in values] or None


def is_mask(example: object) -> bool:
    """Return whether an index tensor chooses by true and false instead of numbers.

    Args:
        example: What is known about the index tensor.

    Returns:
        True for a boolean mask.
    """
    return getattr(example, "dtype", None) in {torch.bool, torch.uint8}


def gather(call: Call) -> Result:
    """Fix the indexed dimension; the others are tied to the index tensor.

    Args:
        call: ``gather(self, dim, index)``, or ``take_along_dim(self, indices, dim)`` with one element for another.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    dim = call.arguments["dim"]
    chosen = call.optional("index") or call.optional("indices") or ()
    if dim is None or len(chosen) != len(terms):
        return frozen(call)
    call.reduce(terms, [dim])
    found = list(chosen)
    for other, (term, own) in enumerate(zip(terms, chosen, strict=True)):
        if other == dim % len(terms):
            call.freeze(term, _LOOKED_UP)
        elif length(term) == length(own):
            found[other] = call.unify(term, own)
        else:  # only the first elements are looked up, or one element for all
            call.freeze(term, _LOOKED_UP)
            found[other] = call.freeze(own if length(own) == call.shapes[0][other] else term, _LOOKED_UP)
    return tuple(found)


def bucketize(call: Call) -> Result:
    """Fix the boundaries; every element is replaced by the number of its bucket.

    Args:
        call: ``bucketize(self, boundaries)``.

    Returns:
        The axes of the elements.
    """
    call.freeze(call.tensor("boundaries")[0], _LOOKED_UP)
    return call.optional("self") or ()


def searchsorted(call: Call) -> Result:
    """Fix the sorted dimension; every element is replaced by its place in it.

    Args:
        call: ``searchsorted(sorted_sequence, self)``.

    Returns:
        The axes of the elements.
    """
    sequence = call.tensor("sorted_sequence")
    elements = call.optional("self") or ()
    if call.optional("sorter") is not None:
        return frozen(call)
    call.freeze(sequence[-1], _LOOKED_UP)
    if len(sequence) == 1:
        return elements
    call.reduce(sequence, [-1])
    return (*call.broadcast(sequence[:-1], elements[:-1]), elements[-1])


def one_hot(call: Call) -> Result:
    """Add a fixed dimension for the classes.

    Args:
        call: ``one_hot(self, num_classes)``.

    Returns:
        The axes of the result.
    """
    return (*call.tensor("self"), call.fixed(call.shapes[0][-1], _LOOKED_UP))


def isin(call: Call) -> Result:
    """Keep the axes of the elements; the order of those they are compared with does not matter.

    Args:
        call: ``isin(elements, test_elements)``.

    Returns:
        The axes of the elements.
    """
    return call.optional("elements") or call.optional("element") or ()


def where(call: Call) -> Result:
    """Tie the axes of a choice between two tensors; with a condition only, the result is its indices.

    Args:
        call: ``where(condition, self, other)`` or ``where(condition)``.

    Returns:
        The axes of the result.
    """
    return elementwise(call) if "other" in call.arguments else frozen(call)


def frozen(call: Call, *, not_ruled: bool = False) -> list[AxisTerms]:
    """Fix every axis of every tensor.

    Args:
        call: Any operator.
        not_ruled: Whether the reason is that the operator has no rule.

    Returns:
        Fixed axes.
    """
    why = _NO_RULE if not_ruled else _LOOKED_UP
    for terms in call.tensors:
        for term in terms:
            call.freeze(term, why)
    return call.all_fixed(why)


_NO_RULE = "the operator has no rule"
_FEW = 64  # a longer list of numbers would cut an axis into parts that nobody can read
_FROZEN = (
    "masked_select", "nonzero", "bincount", "take", "put", "as_strided", "multinomial", "masked_scatter",
    "unique_consecutive", "histc", "select_scatter", "_unique2", "nonzero_numpy", "argwhere",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": frozen for name in _FROZEN},
    "aten._unsafe_index": index,
    "aten.bucketize": bucketize,
    "aten.embedding": embedding,
    "aten.embedding_bag": embedding_bag,
    "aten._embedding_bag": embedding_bag,
    "aten.gather": gather,
    "aten.take_along_dim": gather,
    "aten.index": index,
    "aten.index_select": index_select,
    "aten.isin": isin,
    "aten.one_hot": one_hot,
    "aten.searchsorted": searchsorted,
    "aten.where": where,
}


@final
class IndexingRules(OperatorRules):
    """Rules of lookup by index."""

    name = "indexing"
    rules = RULES
