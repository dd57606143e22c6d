"""Indexing and lookups: the indexed axis is fixed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.operators import piecewise
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_constant, is_tensor
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import differences, length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_LOOKED_UP = "its entries are looked up by index"


def embedding(call: Call) -> Result:
    """Fix the rows of the table; its columns are the features.

    Args:
        call: ``embedding(weight, indices)``.

    Returns:
        The axes of the result.
    """
    rows, columns = call.tensor("weight")
    call.freeze(rows, _LOOKED_UP)
    return (*call.tensor("indices"), columns)


def embedding_bag(call: Call) -> Result:
    """Fix the rows of the table and the axes of the indices; its columns are the features of each bag.

    Args:
        call: ``embedding_bag(weight, indices, offsets, ...)``.

    Returns:
        The axes of the bags, and fixed axes for the other outputs.
    """
    rows, columns = call.tensor("weight")
    for terms in [terms for terms in call.tensors if terms != (rows, columns)]:
        for term in terms:
            call.freeze(term, _LOOKED_UP)
    call.freeze(rows, _LOOKED_UP)
    fixed = call.all_fixed(_LOOKED_UP)
    return [(terms[0], columns) if len(terms) == 2 else terms for terms in fixed]


def index(call: Call) -> Result:
    """Fix the indexed dimensions and replace them by those of the index tensors; constant indices split the axis.

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
        return select_constant(call, terms, dims[0], chosen)
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
    """Fix the indexed dimension and replace it by that of the index tensor.

    Args:
        call: ``index_select(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    if not terms:
        return frozen(call)
    dim = call.arguments["dim"] % len(terms)
    chosen = constant_index(call.example("index"), length(terms[dim]))
    if chosen is not None:
        return select_constant(call, terms, dim, chosen)
    call.reduce(terms, [dim])
    call.freeze(terms[dim], _LOOKED_UP)
    return (*terms[:dim], call.tensor("index")[0] if call.tensor("index") else (), *terms[dim + 1 :])


def select_constant(call: Call, terms: AxisTerms, dim: int, chosen: Sequence[int]) -> AxisTerms:
    """Return the axes of a tensor indexed by constants along one dimension; runs of consecutive indices stay one axis.

    Args:
        call: The operator.
        terms: The axes of the tensor.
        dim: The indexed dimension.
        chosen: Indices of the elements, from 0; at least one.

    Returns:
        The axes of the result.
    """
    size = length(terms[dim])
    bounds = [0, *(at for at, (one, other) in enumerate(pairwise(chosen), 1) if other != one + 1), len(chosen)]
    runs = [(chosen[start], chosen[stop - 1] + 1) for start, stop in pairwise(bounds)]
    if runs == [(0, size)]:
        return terms
    edges = sorted({0, size, *(edge for run in runs for edge in run)})
    parts = call.split(terms, dim, differences(edges), "single entries are selected by index")
    part_at = {start: number for number, start in enumerate(edges[:-1])}
    slices = [part for start, stop in runs for part in parts[part_at[start] : part_at.get(stop)]]
    found: list[AxisTerm] = []
    for other in range(len(terms)):
        along = [part[other] for part in slices]
        found.append(call.concat(along) if other == dim else call.relate(Relation.EQUAL, *along))
    return tuple(found)


def constant_index(example: object, size: int) -> list[int] | None:
    """Return the indices in a constant index tensor or mask of at most 64 entries.

    Args:
        example: The value of the index tensor, or a record of its shape and dtype.
        size: Length of the indexed dimension.

    Returns:
        Indices from 0 to ``size - 1``; None if the values are unknown, none are selected, or there are too many.
    """
    if not is_constant(example) or example.dim() != 1:
        return None
    if not 0 < len(example) <= _FEW or example.is_floating_point():
        return None
    values = example.nonzero()[:, 0] if is_mask(example) else example % size
    return [int(value) for value in values] or None


def is_mask(example: object) -> bool:
    """Return whether an index tensor is a boolean mask.

    Args:
        example: The value of the index tensor, or a record of its shape and dtype.

    Returns:
        True for the dtypes ``bool`` and ``uint8``.
    """
    return getattr(example, "dtype", None) in {torch.bool, torch.uint8}


def has_masks(call: Call) -> bool:
    """Return whether an index tensor among the argument ``indices`` is a boolean mask.

    Args:
        call: ``index(self, indices)`` or ``index_put(self, indices, values)``.

    Returns:
        True for at least one mask.
    """
    return any(map(is_mask, call.example("indices") or []))


def gather(call: Call) -> Result:
    """Fix the indexed dimension and tie the others to the index tensor.

    Args:
        call: ``gather(self, dim, index)``, or ``take_along_dim(self, indices, dim)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    dim = call.arguments["dim"]
    chosen = call.optional("index") or call.optional("indices") or ()
    if dim is None or not terms or len(chosen) != len(terms):
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
    """Fix the boundaries; each element is replaced by the index of its bucket.

    Args:
        call: ``bucketize(self, boundaries)``.

    Returns:
        The axes of the elements.
    """
    call.freeze(call.tensor("boundaries")[0], _LOOKED_UP)
    return call.optional("self") or ()


def searchsorted(call: Call) -> Result:
    """Fix the sorted dimension; each element is replaced by its insertion index.

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
    """Keep the axes of the elements; the order of the test elements does not matter.

    Args:
        call: ``isin(elements, test_elements)``.

    Returns:
        The axes of the elements.
    """
    return call.optional("elements") or call.optional("element") or ()


def where(call: Call) -> Result:
    """Tie the condition and both tensors; with a condition only, the result is indices and all axes are fixed.

    Args:
        call: ``where(condition, self, other)`` or ``where(condition)``.

    Returns:
        The axes of the result.
    """
    return piecewise.where(call) if "other" in call.arguments else frozen(call)


def frozen(call: Call, *, not_ruled: bool = False) -> list[AxisTerms]:
    """Fix all axes of all tensors.

    Args:
        call: Any operator.
        not_ruled: Whether to report that the operator has no rule, instead of a lookup.

    Returns:
        Fixed axes.
    """
    why = _NO_RULE if not_ruled else _LOOKED_UP
    for terms in call.tensors:
        for term in terms:
            call.freeze(term, why)
    return call.all_fixed(why)


_NO_RULE = "the operator has no rule"
_FEW = 64  # more indices could split an axis into too many parts to be readable
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

SIGHTS: Sights = {
    **{f"aten.{name}": Sight.COPY for name in ("_unsafe_index", "embedding", "index", "index_select")},
    "aten.where": Sight.LINEAR,
}


@final
class IndexingRules(OperatorRules):
    """Rules for indexing and lookups."""

    name = "indexing"
    rules = RULES
    sights = SIGHTS
