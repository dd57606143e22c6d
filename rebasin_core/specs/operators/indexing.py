"""Lookup and writing by index: the indexed axis is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.elementwise import elementwise
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms

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
    kept = [term for dim, term in enumerate(terms) if dim not in dims]
    looked = max(len(item) for item in given)
    if len(call.shapes[0]) != len(kept) + looked:  # a mask indexes several dimensions
        return frozen(call)
    for dim in dims:
        call.freeze(terms[dim], _LOOKED_UP)
    start = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    found = call.broadcast(*given)
    sizes = call.shapes[0][start : start + looked]
    if [length(term) for term in found] != list(sizes):  # a mask of one dimension
        for term in found:
            call.freeze(term, _LOOKED_UP)
        found = tuple(call.fixed(size, _LOOKED_UP) for size in sizes)
    return (*kept[:start], *found, *kept[start:])


def index_select(call: Call) -> Result:
    """Fix the indexed dimension; the dimension of the index tensor replaces it.

    Args:
        call: ``index_select(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms = list(call.tensor("self"))
    dim = call.arguments["dim"]
    (chosen,) = call.tensor("index")
    call.freeze(terms[dim], _LOOKED_UP)
    terms[dim] = chosen
    return tuple(terms)


def gather(call: Call) -> Result:
    """Fix the indexed dimension; the others are tied to the index tensor.

    Args:
        call: ``gather(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    dim = call.arguments["dim"]
    chosen = call.tensor("index")
    found = list(chosen)
    for other, (term, own) in enumerate(zip(terms, chosen, strict=True)):
        if other == dim % len(terms) or length(term) != length(own):
            call.freeze(term, _LOOKED_UP)
        else:
            found[other] = call.unify(term, own)
    return tuple(found)


def index_put(call: Call) -> Result:
    """Fix the dimension written to by index; the others are tied to the values.

    Args:
        call: ``index_put(self, indices, values)``.

    Returns:
        The axes of the tensor that is written to.
    """
    terms = list(call.tensor("self"))
    values = call.tensor("values")
    given = [item if is_tensor(item) else None for item in call.arguments["indices"]]
    indexed = [(dim, item) for dim, item in enumerate(given) if item is not None]
    if len(indexed) != 1 or len(indexed[0][1]) != 1:  # several index tensors, or a mask of several dimensions
        return frozen(call)
    dim, _ = indexed[0]
    terms[dim] = call.freeze(terms[dim], _LOOKED_UP)
    for back in range(1, min(len(values), len(terms)) + 1):
        other = len(terms) - back
        if other == dim:
            call.freeze(values[-back], _LOOKED_UP)
        elif length(values[-back]) == length(terms[other]):
            terms[other] = call.unify(terms[other], values[-back])
    return tuple(terms)


def scatter(call: Call) -> Result:
    """Fix the dimension written to by index; the others are tied to the values.

    Args:
        call: ``scatter``, ``index_add``, ``index_copy``, ``slice_scatter`` and the like.

    Returns:
        The axes of the tensor that is written to.
    """
    terms = list(call.tensor("self"))
    dim = call.arguments["dim"] % len(call.tensor("self"))
    terms[dim] = call.freeze(terms[dim], _LOOKED_UP)
    for name in ("index", "src", "source"):
        given = call.optional(name)
        if given is None or len(given) != len(terms):
            for term in given or ():
                call.freeze(term, _LOOKED_UP)
            continue
        call.freeze(given[dim], _LOOKED_UP)
        for other, term in enumerate(given):
            if other == dim:
                continue
            if length(term) == length(terms[other]):
                terms[other] = call.unify(terms[other], term)
            else:
                terms[other] = call.freeze(terms[other], _LOOKED_UP)
                call.freeze(term, _LOOKED_UP)
    return tuple(terms)


def where(call: Call) -> Result:
    """Tie the axes of a choice between two tensors; with a condition only, the result is its indices.

    Args:
        call: ``where(condition, self, other)`` or ``where(condition)``.

    Returns:
        The axes of the result.
    """
    return elementwise(call) if "other" in call.arguments else frozen(call)


def frozen(call: Call) -> list[AxisTerms]:
    """Fix every axis of every tensor: the rule of operators without a rule.

    Args:
        call: Any operator.

    Returns:
        Fixed axes.
    """
    why = _LOOKED_UP if call.operator in RULES else _NO_RULE
    for terms in call.tensors:
        for term in terms:
            call.freeze(term, why)
    return call.all_fixed(why)


_NO_RULE = "the operator has no rule"
_FROZEN = (
    "masked_select", "nonzero", "bincount", "searchsorted", "bucketize", "take", "put", "as_strided",
    "multinomial", "embedding_bag", "masked_scatter", "one_hot", "unique_consecutive", "histc", "select_scatter",
    "_unique2", "nonzero_numpy", "argwhere", "isin",
)  # fmt: skip
_SCATTERS = (
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add",
    "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_", "slice_scatter",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": frozen for name in _FROZEN},
    **{f"aten.{name}": scatter for name in _SCATTERS},
    **{f"aten.{name}": index_put for name in ("index_put", "index_put_", "_unsafe_index_put")},
    "aten._unsafe_index": index,
    "aten.embedding": embedding,
    "aten.gather": gather,
    "aten.take_along_dim": gather,
    "aten.index": index,
    "aten.index_select": index_select,
    "aten.where": where,
}


@final
class IndexingRules(OperatorRules):
    """Rules of lookup and writing by index."""

    name = "indexing"
    rules = RULES
