"""Writing by index: the indexed axis is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.indexing import frozen, is_mask
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call

_WRITTEN = "its entries are written by index"


def index_put(call: Call) -> Result:
    """Fix the indexed dimension and tie the others to the values.

    Args:
        call: ``index_put(self, indices, values)``.

    Returns:
        The axes of the result.
    """
    terms = list(call.tensor("self"))
    values = call.tensor("values")
    given = [item if is_tensor(item) else None for item in call.arguments["indices"]]
    indexed = [(dim, item) for dim, item in enumerate(given) if item is not None]
    if len(indexed) != 1 or len(indexed[0][1]) != 1:  # several index tensors, or a mask of several dimensions
        return frozen(call)
    ((dim, (chosen,)),) = indexed
    written = values[dim - len(terms)] if len(values) >= len(terms) - dim else ()
    if is_mask(call.example("indices")[dim]) and length(written) == 1:
        terms[dim] = call.unify(terms[dim], chosen)
    else:
        call.reduce(tuple(terms), [dim])
        call.freeze(chosen, _WRITTEN)
        terms[dim] = call.freeze(terms[dim], _WRITTEN)
    for back in range(1, min(len(values), len(terms)) + 1):
        other = len(terms) - back
        if other == dim:
            call.freeze(values[-back], _WRITTEN)
        elif length(values[-back]) == length(terms[other]):
            terms[other] = call.unify(terms[other], values[-back])
    return tuple(terms)


def scatter(call: Call) -> Result:
    """Fix the indexed dimension and tie the others to the values.

    Args:
        call: ``scatter``, ``index_add``, ``index_copy``, ``slice_scatter`` and the like.

    Returns:
        The axes of the result.
    """
    terms = list(call.tensor("self"))
    if not terms:
        return frozen(call)
    dim = call.arguments["dim"] % len(terms)
    call.reduce(tuple(terms), [dim])
    terms[dim] = call.freeze(terms[dim], _WRITTEN)
    for name in ("index", "src", "source"):
        given = call.optional(name)
        if given is None or len(given) != len(terms):
            for term in given or ():
                call.freeze(term, _WRITTEN)
            continue
        call.freeze(given[dim], _WRITTEN)
        for other, term in enumerate(given):
            if other == dim:
                continue
            if length(term) == length(terms[other]):
                terms[other] = call.unify(terms[other], term)
            else:
                terms[other] = call.freeze(terms[other], _WRITTEN)
                call.freeze(term, _WRITTEN)
    return tuple(terms)


_SCATTERS = (
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add",
    "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_", "slice_scatter",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": scatter for name in _SCATTERS},
    **{f"aten.{name}": index_put for name in ("index_put", "index_put_", "_unsafe_index_put")},
}


@final
class WritingRules(OperatorRules):
    """Rules for writing by index."""

    name = "writing"
    rules = RULES
