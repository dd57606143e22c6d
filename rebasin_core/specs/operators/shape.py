"""Reshaping, reordering and repeating."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import fresh, has_uniform, length, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms

_REORDERED = "elements are reordered"
_UNEVEN = "elements are repeated unevenly"
_WINDOWS = "windows are extracted"


def reshape(call: Call) -> Result:
    """Divide and flatten dimensions in row-major order.

    Args:
        call: ``view``, ``reshape``, ``flatten``, ``unflatten``, ``squeeze``, ``unsqueeze``.

    Returns:
        The axes in the new shape.
    """
    return tuple(call.reshape(call.first, call.shapes[0]))


def permute(call: Call) -> Result:
    """Reorder the dimensions.

    Args:
        call: ``permute(self, dims)``.

    Returns:
        The axes in their new order.
    """
    terms = call.first
    return tuple(terms[dim] for dim in call.arguments["dims"])


def transpose(call: Call) -> Result:
    """Swap two dimensions.

    Args:
        call: ``transpose(self, dim0, dim1)``, ``t``, ``mT``.

    Returns:
        The axes in their new order.
    """
    terms = list(call.first)
    dims = [*call.arguments.values()][1:3]
    first, second = dims if len(dims) == 2 else (-2, -1)
    if call.operator == "aten.numpy_T":
        return tuple(reversed(terms))
    if len(terms) > 1:
        terms[first], terms[second] = terms[second], terms[first]
    return tuple(terms)


def movedim(call: Call) -> Result:
    """Move dimensions to new positions.

    Args:
        call: ``movedim(self, source, destination)``.

    Returns:
        The axes in their new order.
    """
    terms = call.first
    source = _list(call.arguments["source"])
    target = _list(call.arguments["destination"])
    origins = {goal % len(terms): origin % len(terms) for origin, goal in zip(source, target, strict=True)}
    others = iter(dim for dim in range(len(terms)) if dim not in origins.values())
    return tuple(terms[origins[dim] if dim in origins else next(others)] for dim in range(len(terms)))


def expand(call: Call) -> Result:
    """Repeat dimensions of length 1; the result is uniform along them.

    Args:
        call: ``expand``, ``expand_as``, ``broadcast_to``.

    Returns:
        The axes of the result.
    """
    return expanded(call.first, call.shapes[0])


def expanded(terms: AxisTerms, shape: Sequence[int]) -> AxisTerms:
    """Return the axes of a tensor that is broadcast to a shape.

    Args:
        terms: The axes of the tensor.
        shape: The new shape.

    Returns:
        The axes of the result.
    """
    padded = ((),) * (len(shape) - len(terms)) + tuple(terms)
    return tuple(uniform(size) if length(term) == 1 else term for term, size in zip(padded, shape, strict=True))


def repeat(call: Call) -> Result:
    """Concatenate copies of a tensor.

    Args:
        call: ``repeat(self, repeats)`` or ``tile(self, dims)``.

    Returns:
        The axes of the result.
    """
    terms = call.first
    shape = call.shapes[0]
    padded = ((),) * (len(shape) - len(terms)) + terms
    return tuple((*uniform(size // length(term)), *term) for term, size in zip(padded, shape, strict=True))


def repeat_interleave(call: Call) -> Result:
    """Repeat every element.

    Args:
        call: ``repeat_interleave(self, repeats, dim)``.

    Returns:
        The axes of the result.
    """
    terms = list(call.optional("self") or ())
    dim = call.arguments.get("dim")
    repeats = call.arguments["repeats"]
    if not isinstance(repeats, int) or dim is None:
        for term in call.optional("repeats") or ():
            call.freeze(term, _UNEVEN)
        if dim is not None and terms:
            return call.mix(tuple(terms), {dim % len(terms): call.shapes[0][dim]}, _UNEVEN)
        for term in terms:
            call.freeze(term, _UNEVEN)
        return tuple(call.fixed(size, _UNEVEN) for size in call.shapes[0])
    terms[dim] = (*terms[dim], *uniform(repeats))
    return tuple(terms)


def reordered(call: Call) -> Result:
    """Fix the dimensions along which elements are reordered.

    Args:
        call: ``roll``, ``flip`` or ``rot90``.

    Returns:
        The axes of the result.
    """
    terms = list(call.first)
    default = {"aten.flipud": [0], "aten.fliplr": [1]}.get(call.operator, [*range(len(terms))])
    dims = [dim % len(terms) for dim in _list(call.arguments.get("dims")) or default]
    return call.mix(tuple(terms), {dim: call.shapes[0][dim] for dim in dims}, _REORDERED)


def unfold(call: Call) -> Result:
    """Fix a dimension from which windows are extracted, unless they tile it or there is only one.

    Args:
        call: ``unfold(self, dimension, size, step)``.

    Returns:
        The axes of the result; the last is within the window.
    """
    terms = list(call.tensor("self"))
    dim = call.arguments["dimension"] % max(len(terms), 1)
    size = call.arguments["size"]
    if dim < len(terms) and length(terms[dim]) == size:  # a single window with all elements
        return (*terms[:dim], (), *terms[dim + 1 :], terms[dim])
    if dim < len(terms) and size == call.arguments["step"] and length(terms[dim]) % size == 0:  # adjacent windows
        windows, inside = call.reshape([terms[dim]], [length(terms[dim]) // size, size])
        return (*terms[:dim], windows, *terms[dim + 1 :], inside)
    if dim < len(terms):
        terms = list(call.mix(tuple(terms), {dim: call.shapes[0][dim]}, _WINDOWS))
    return (*terms, call.fixed(call.shapes[0][-1], _WINDOWS))


def diagonal(call: Call) -> Result:
    """Tie the two dimensions of a square diagonal; fix them if the diagonal is offset or not square.

    Args:
        call: ``diagonal(self, offset, dim1, dim2)``.

    Returns:
        The axes of the result; the last is the diagonal.
    """
    terms = list(call.tensor("self"))
    first = call.arguments["dim1"] % len(terms)
    second = call.arguments["dim2"] % len(terms)
    rest = tuple(term for dim, term in enumerate(terms) if dim not in {first, second})
    if call.arguments["offset"] == 0 and length(terms[first]) == length(terms[second]):
        return (*rest, call.unify(terms[first], terms[second]))
    call.reduce(tuple(terms), [first, second])
    call.freeze(terms[first], "a diagonal is extracted")
    call.freeze(terms[second], "a diagonal is extracted")
    return (*rest, call.fixed(call.shapes[0][-1], "a diagonal is extracted"))


def diag_embed(call: Call) -> Result:
    """Write a dimension to the diagonal of a matrix.

    Args:
        call: ``diag_embed(self, offset, dim1, dim2)``.

    Returns:
        The axes of the result.
    """
    *rest, written = call.tensor("self")
    dims = len(call.shapes[0])
    first = call.arguments.get("dim1", -2) % dims
    second = call.arguments.get("dim2", -1) % dims
    if call.arguments.get("offset", 0):
        call.reduce((*rest, written), [-1])
        call.freeze(written, "a diagonal is written")
        own = {dim: call.fixed(call.shapes[0][dim], "a diagonal is written") for dim in (first, second)}
    else:
        # A constant vector is uniform; the diagonal matrix made of it is not.
        diagonal_axis = fresh(length(written)) if has_uniform(written) else written
        own = {first: diagonal_axis, second: diagonal_axis}
    others = iter(rest)
    return tuple(own[dim] if dim in own else next(others) for dim in range(dims))


def fill_diagonal(call: Call) -> Result:
    """Tie all dimensions of a tensor whose diagonal is filled; fix them if their lengths differ.

    Args:
        call: ``fill_diagonal_(self, fill_value, wrap)``.

    Returns:
        The axes of the tensor.
    """
    terms = call.tensor("self")
    if len(set(map(length, terms))) == 1:
        return (call.unify(*terms),) * len(terms)
    return tuple(call.freeze(term, "a diagonal is written") for term in terms)


def meshgrid(call: Call) -> Result:
    """Repeat vectors over a grid.

    Args:
        call: ``meshgrid(tensors, indexing)``.

    Returns:
        The axes of each grid.
    """
    tensors: list[AxisTerms] = call.arguments["tensors"]
    axes = [terms[0] if terms else () for terms in tensors]
    if call.arguments.get("indexing") == "xy" and len(axes) > 1:
        axes[:2] = reversed(axes[:2])
    return [
        tuple(term if term == own else uniform(length(term)) for term in axes)
        for own in (terms[0] if terms else () for terms in tensors)
    ]


def _list(value: int | Sequence[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


_RESHAPES = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "squeeze_", "unsqueeze_",
    "view_copy", "reshape_as", "view_as", "ravel", "atleast_1d", "_reshape_alias",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": reshape for name in _RESHAPES},
    **{
        f"aten.{name}": transpose
        for name in ("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "matrix_H", "mH")
    },
    **{f"aten.{name}": transpose for name in ("transpose_", "swapaxes_", "t_")},
    **{f"aten.{name}": expand for name in ("expand", "expand_as", "broadcast_to", "expand_copy")},
    **{f"aten.{name}": reordered for name in ("roll", "flip", "rot90", "fliplr", "flipud")},
    **{f"aten.{name}": repeat for name in ("repeat", "tile")},
    **{f"aten.{name}": movedim for name in ("movedim", "moveaxis")},
    "aten.diag_embed": diag_embed,
    "aten.fill_diagonal_": fill_diagonal,
    "aten.diagonal": diagonal,
    "aten.meshgrid": meshgrid,
    "aten.permute": permute,
    "aten.repeat_interleave": repeat_interleave,
    "aten.unfold": unfold,
}

_NOT_LINEAR = {"aten.meshgrid", "aten.diag_embed", "aten.fill_diagonal_", "aten.diagonal", "aten.adjoint", "aten.mH"}
SIGHTS: Sights = {name: Sight.COPY for name in RULES if name not in _NOT_LINEAR}


@final
class ShapeRules(OperatorRules):
    """Rules for reshaping, reordering and repeating."""

    name = "shape"
    rules = RULES
    sights = SIGHTS
