"""Looking elements up by their number: the axis looked into must stay in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.operators.elementwise import elementwise
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call, Terms

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
    """Fix the dimensions that index tensors look into; the dimensions of the index tensors take their place.

    Args:
        call: ``index(self, indices)``.

    Returns:
        The axes of the result.
    """
    terms, indices = call.tensor("self"), [item if is_tensor(item) else None for item in call.arguments["indices"]]
    places = [place for place, item in enumerate(indices) if item is not None]
    if not places:
        return terms
    given: list[Terms] = [item for item in indices if item is not None]
    kept = [term for place, term in enumerate(terms) if place not in places]
    looked = max(len(item) for item in given)
    if len(call.shapes[0]) != len(kept) + looked:  # a mask stands for several dimensions
        return frozen(call)
    for place in places:
        call.freeze(terms[place], _LOOKED_UP)
    start = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    found = call.broadcast(*given)
    sizes = call.shapes[0][start : start + looked]
    if [length(term) for term in found] != list(sizes):  # a mask of one dimension
        for term in found:
            call.freeze(term, _LOOKED_UP)
        found = tuple(call.fixed(size, _LOOKED_UP) for size in sizes)
    return (*kept[:start], *found, *kept[start:])


def index_select(call: Call) -> Result:
    """Fix the dimension looked into.

    Args:
        call: ``index_select(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms, dim, (chosen,) = list(call.tensor("self")), call.arguments["dim"], call.tensor("index")
    call.freeze(terms[dim], _LOOKED_UP)
    terms[dim] = chosen
    return tuple(terms)


def gather(call: Call) -> Result:
    """Fix the dimension looked into; the others go along with the index.

    Args:
        call: ``gather(self, dim, index)``.

    Returns:
        The axes of the result.
    """
    terms, dim, chosen = call.tensor("self"), call.arguments["dim"], call.tensor("index")
    found = list(chosen)
    for place, (term, own) in enumerate(zip(terms, chosen, strict=True)):
        if place == dim % len(terms) or length(term) != length(own):
            call.freeze(term, _LOOKED_UP)
        else:
            found[place] = call.join(term, own)
    return tuple(found)


def index_put(call: Call) -> Result:
    """Fix the dimensions written into by number; the others go along with the values.

    Args:
        call: ``index_put(self, indices, values)``.

    Returns:
        The axes of the tensor written into.
    """
    terms, values = list(call.tensor("self")), call.tensor("values")
    given = [item if is_tensor(item) else None for item in call.arguments["indices"]]
    places = [place for place, item in enumerate(given) if item is not None]
    looked = [len(item) for item in given if item is not None]
    if len(places) != 1 or looked[0] != 1:  # several index tensors, or a mask of several dimensions
        return frozen(call)
    terms[places[0]] = call.freeze(terms[places[0]], _LOOKED_UP)
    for back in range(1, min(len(values), len(terms)) + 1):
        place = len(terms) - back
        if place == places[0]:
            call.freeze(values[-back], _LOOKED_UP)
        elif length(values[-back]) == length(terms[place]):
            terms[place] = call.join(terms[place], values[-back])
    return tuple(terms)


def scatter(call: Call) -> Result:
    """Fix the dimension written into by number; the others go along with what is written.

    Args:
        call: ``scatter``, ``index_add``, ``index_copy``, ``slice_scatter``, ``select_scatter`` and their kin.

    Returns:
        The axes of the tensor written into.
    """
    terms, dim = list(call.tensor("self")), call.arguments["dim"] % len(call.tensor("self"))
    terms[dim] = call.freeze(terms[dim], _LOOKED_UP)
    for name in ("index", "src", "source"):
        other = call.optional(name)
        if other is None or len(other) != len(terms):
            for term in other or ():
                call.freeze(term, _LOOKED_UP)
            continue
        call.freeze(other[dim], _LOOKED_UP)
        for place, term in enumerate(other):
            if place == dim:
                continue
            if length(term) == length(terms[place]):
                terms[place] = call.join(terms[place], term)
            else:
                terms[place] = call.freeze(terms[place], _LOOKED_UP)
                call.freeze(term, _LOOKED_UP)
    return tuple(terms)


def where(call: Call) -> Result:
    """Tie the axes of a choice between two tensors; alone, the condition gives the places where it holds.

    Args:
        call: ``where(condition, self, other)`` or ``where(condition)``.

    Returns:
        The axes of the result.
    """
    return elementwise(call) if "other" in call.arguments else frozen(call)


def frozen(call: Call) -> list[Terms]:
    """Fix every axis of every tensor: the rule of operators that have none.

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
    """Rules of looking up and writing by number."""

    name = "indexing"
    rules = RULES
