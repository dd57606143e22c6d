"""Reductions, softmax, sorting and cumulative sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms

_ORDER = "the order of its elements matters"


def reduction(call: Call) -> Result:
    """Drop the reduced dimensions, or keep them with length 1 (``keepdim``).

    Args:
        call: ``sum``, ``mean``, ``amax``, ``logsumexp`` and the like.

    Returns:
        The remaining axes, for each output.
    """
    terms = call.first
    dims = dims_of(call)
    for sight in _seen_when_reduced(call):
        for dim in dims:
            call.see(terms[dim], sight, "units are reduced to one number")
    kept = bool(call.arguments.get("keepdim", False))
    remaining = tuple(() if dim in dims else term for dim, term in enumerate(terms) if kept or dim not in dims)
    return [remaining] * len(call.shapes)


def _seen_when_reduced(call: Call) -> tuple[Sight, ...]:
    """Return how an operator sees the units that it reduces."""
    name = call.operator.removeprefix("aten.")
    if name in _SUMS:
        return (Sight.SUM,)
    if name in _VARIANCES:
        return (Sight.SUM, Sight.NORM)
    is_euclidean = name in _NORMS and call.arguments.get("ord", call.arguments.get("p", 2)) in {2, None, "fro"}
    return (Sight.NORM,) if is_euclidean else (Sight.ANY,)


def extremum(call: Call) -> Result:
    """Reduce a dimension, or compare two tensors. The dimension is fixed if the index of the extremum is used.

    Args:
        call: ``max.dim``, ``min.dim``, ``median.dim``, ``mode``, ``kthvalue``.

    Returns:
        The axes of the values, and of the indices.
    """
    if call.optional("other") is not None:
        return call.broadcast(call.tensor("self"), call.tensor("other"), relation=Relation.EQUAL)
    if 1 in call.used:
        for dim in dims_of(call):
            call.freeze(call.tensor("self")[dim], "the index of an extremum is used")
    return reduction(call)


def index_of_extremum(call: Call) -> Result:
    """Fix a dimension and reduce it to the index of its extremum.

    Args:
        call: ``argmax`` or ``argmin``.

    Returns:
        The remaining axes.
    """
    for dim in dims_of(call):
        call.freeze(call.tensor("self")[dim], "the index of an extremum is used")
    return reduction(call)


def along(call: Call) -> Result:
    """Keep all axes: a softmax commutes with permutations.

    Args:
        call: ``softmax``, ``log_softmax`` or a variant of them.

    Returns:
        The same axes.
    """
    terms = call.first
    if terms:
        call.reduce(terms, sorted(dims_of(call)))
    return terms


def ordered(call: Call) -> Result:
    """Fix a dimension of a cumulative operator or ``argsort``.

    Args:
        call: ``cumsum``, ``cummax``, ``argsort``.

    Returns:
        The axes of each output.
    """
    terms = call.first
    return [call.mix(terms, {dim: call.shapes[0][dim] for dim in dims_of(call)}, _ORDER)] * len(call.shapes)


def sorted_values(call: Call) -> Result:
    """Return a fixed axis for the sorted elements. The sorted dimension is fixed only if the indices are used.

    Args:
        call: ``sort``, ``topk``, ``msort``.

    Returns:
        The axes of the values, and of the indices.
    """
    dims = {0} if call.operator == "aten.msort" and call.first else dims_of(call)
    terms = list(call.first)
    if 1 in call.used:
        return [call.mix(call.first, {dim: call.shapes[0][dim] for dim in dims}, _ORDER)] * len(call.shapes)
    call.reduce(call.first, sorted(dims))
    for dim in dims:
        call.see(terms[dim], Sight.ANY, "units are sorted")
        terms[dim] = call.fixed(call.shapes[0][dim], _ORDER)
    return [tuple(terms)] * len(call.shapes)


def difference(call: Call) -> Result:
    """Fix the dimension of a finite difference, and tie the others to the prepended and appended tensors.

    Args:
        call: ``diff(self, n, dim, prepend, append)``.

    Returns:
        The axes of the result.
    """
    terms = list(call.tensor("self"))
    dim = call.arguments["dim"] % len(terms)
    for name in ("prepend", "append"):
        for other, term in enumerate(call.optional(name) or ()):
            if other == dim:
                call.freeze(term, _ORDER)
            else:
                terms[other] = call.relate(Relation.EQUAL, terms[other], term)
    return call.mix(tuple(terms), {dim: call.shapes[0][dim]}, _ORDER)


def distance(call: Call) -> Result:
    """Tie the coordinates of two sets of points.

    Args:
        call: ``cdist(x1, x2)``.

    Returns:
        The axes of the distance matrices.
    """
    first, second, *_ = call.arguments.values()
    batch = call.broadcast(first[:-2], second[:-2])
    for term in (first[-1], second[-1]):
        call.see(term, Sight.NORM if call.arguments.get("p", 2) == 2 else Sight.ANY, "points are compared by distance")
    for term in (first[-2], second[-2]):
        call.see(term, Sight.ANY, "points are compared by distance")
    call.contract(first[-1], second[-1], batch)
    return (*batch, first[-2], second[-2])


def cosine_similarity(call: Call) -> Result:
    """Tie two tensors and drop the contracted dimension.

    Args:
        call: ``cosine_similarity(x1, x2, dim)``.

    Returns:
        The remaining axes.
    """
    first, second = call.tensor("x1"), call.tensor("x2")
    terms = call.broadcast(first, second, relation=Relation.EQUAL)
    reduced = call.arguments["dim"] % max(len(terms), 1)
    for dim, term in enumerate(terms):
        call.see(term, Sight.NORM if dim == reduced else Sight.ANY, "vectors are compared by their angle")
    return tuple(term for dim, term in enumerate(terms) if dim != reduced)


def triangle(call: Call) -> Result:
    """Fix the last two dimensions.

    Args:
        call: ``tril`` or ``triu``.

    Returns:
        The axes of the result.
    """
    terms: AxisTerms = call.tensor("self")
    return (*terms[:-2], *(call.freeze(term, "one triangle is kept") for term in terms[-2:]))


def dims_of(call: Call) -> set[int]:
    """Return the reduced dimensions: the argument ``dim``, or all dimensions.

    Args:
        call: The operator.

    Returns:
        Nonnegative dimensions.
    """
    terms = call.first
    dims = call.arguments.get("dim")
    chosen = range(len(terms)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return {dim % len(terms) for dim in chosen} if terms else set()


_REDUCTIONS = (
    "sum", "mean", "prod", "amax", "amin", "logsumexp", "norm", "linalg_vector_norm", "std", "var", "var_mean",
    "std_mean", "aminmax", "all", "any", "nansum", "nanmean", "count_nonzero", "special_logsumexp", "frobenius_norm",
)  # fmt: skip

_SUMS = ("sum", "mean", "nansum", "nanmean")
_VARIANCES = ("var", "std", "var_mean", "std_mean")
_NORMS = ("norm", "linalg_vector_norm", "frobenius_norm")
_ORDERED = ("sort", "topk", "msort", "median", "kthvalue", "cummax", "cummin")
SIGHTS: Sights = {
    **{f"aten.{name}": Sight.LINEAR for name in ("sum", "mean", "cumsum", "diff", "cdist", "cosine_similarity")},
    **{f"aten.{name}": Sight.HOMOGENEOUS for name in ("amax", "amin", "max", "min", "std", *_NORMS, *_ORDERED)},
}

RULES: dict[str, Rule] = {
    **{f"aten.{name}": reduction for name in _REDUCTIONS},
    **{f"aten.{name}": extremum for name in ("max", "min", "median", "nanmedian", "kthvalue", "mode")},
    **{f"aten.{name}": index_of_extremum for name in ("argmax", "argmin")},
    **{f"aten.{name}": along for name in ("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")},
    **{f"aten.{name}": along for name in ("special_softmax", "special_log_softmax")},
    **{
        f"aten.{name}": ordered
        for name in ("cumsum", "cumprod", "argsort", "cummax", "cummin", "logcumsumexp", "cumsum_")
    },
    **{f"aten.{name}": sorted_values for name in ("sort", "topk", "msort")},
    "aten.diff": difference,
    **{f"aten.{name}": triangle for name in ("tril", "triu", "tril_", "triu_")},
    "aten.cdist": distance,
    "aten.cosine_similarity": cosine_similarity,
}


@final
class ReductionRules(OperatorRules):
    """Rules for reductions, softmax and sorting."""

    name = "reduction"
    rules = RULES
    sights = SIGHTS
