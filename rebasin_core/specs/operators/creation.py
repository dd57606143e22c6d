"""Operators that create tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import fresh, uniform

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call


def constant(call: Call) -> Result:
    """Return uniform axes for a tensor with equal elements.

    Args:
        call: ``full``, ``zeros`` and the like.

    Returns:
        Uniform axes.
    """
    is_zero = call.operator.rpartition(".")[2] in _ZEROS
    return tuple(uniform(size, is_zero=is_zero) for size in call.shapes[0])


def varying(call: Call) -> Result:
    """Return fixed axes for a tensor whose elements vary.

    Args:
        call: ``arange``, ``randn`` and the like.

    Returns:
        Fixed axes.
    """
    return call.all_fixed("values vary along it")


def random(call: Call) -> Result:
    """Fix the axes of the distribution parameters: random numbers are not permuted with them.

    Args:
        call: ``bernoulli`` or ``normal``.

    Returns:
        Fixed axes.
    """
    for terms in call.tensors:
        for term in terms:
            call.freeze(term, _RANDOM)
    return call.all_fixed(_RANDOM)


def identity(call: Call) -> Result:
    """Return one new axis twice: an identity matrix is unchanged if its rows and columns are permuted identically.

    Args:
        call: ``eye``.

    Returns:
        The axes of the rows and columns. If their lengths differ, the longer one is padded with zeros.
    """
    rows, columns = call.shapes[0]
    shared = fresh(min(rows, columns))
    if rows == columns:
        return (shared, shared)
    longer = call.concat([shared, uniform(abs(rows - columns))])
    return (longer, shared) if rows > columns else (shared, longer)


_RANDOM = "random numbers depend on the position"
_CONSTANT = (
    "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "empty", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "scalar_tensor", "empty_permuted", "empty_strided", "new_empty_strided",
)  # fmt: skip
_ZEROS = {"zeros", "zeros_like", "new_zeros"}
_VARYING = (
    "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "rand_like", "randn_like",
    "randint_like", "hann_window", "hamming_window", "tril_indices", "triu_indices",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": constant for name in _CONSTANT},
    **{f"aten.{name}": varying for name in _VARYING},
    **{f"aten.{name}": random for name in ("bernoulli", "normal")},
    "aten.eye": identity,
}


# They use the shape of a tensor, but no entry; random numbers have fixed axes.
SIGHTS: Sights = {f"aten.{name}": Sight.COPY for name in _CONSTANT}


@final
class CreationRules(OperatorRules):
    """Rules for operators that create tensors."""

    name = "creation"
    rules = RULES
    sights = SIGHTS
