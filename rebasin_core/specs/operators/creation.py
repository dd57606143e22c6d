"""Operators that create tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.terms import fresh, uniform

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call


def constant(call: Call) -> Result:
    """Return uniform axes for a tensor whose elements are all equal.

    Args:
        call: ``full``, ``zeros`` and the like.

    Returns:
        Uniform axes.
    """
    return tuple(uniform(size) for size in call.shapes[0])


def counted(call: Call) -> Result:
    """Return fixed axes for a tensor whose elements differ.

    Args:
        call: ``arange``, random numbers.

    Returns:
        Fixed axes.
    """
    return call.all_fixed("its values differ")


def random(call: Call) -> Result:
    """Fix the axes of the probabilities, means or deviations of random numbers, which are not drawn in another order.

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
    """Return one new axis twice: an identity matrix does not change if rows and columns are permuted alike.

    Args:
        call: ``eye``.

    Returns:
        The axes of the rows and columns; the longer one ends with zeros.
    """
    rows, columns = call.shapes[0]
    shared = fresh(min(rows, columns))
    if rows == columns:
        return (shared, shared)
    longer = call.concat([shared, uniform(abs(rows - columns))])
    return (longer, shared) if rows > columns else (shared, longer)


_RANDOM = "random numbers are drawn in order"
_CONSTANT = (
    "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "empty", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "scalar_tensor", "empty_permuted", "empty_strided", "new_empty_strided",
)  # fmt: skip
_COUNTED = (
    "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "rand_like", "randn_like",
    "randint_like", "hann_window", "hamming_window", "tril_indices", "triu_indices",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": constant for name in _CONSTANT},
    **{f"aten.{name}": counted for name in _COUNTED},
    **{f"aten.{name}": random for name in ("bernoulli", "normal")},
    "aten.eye": identity,
}


@final
class CreationRules(OperatorRules):
    """Rules of operators that create tensors."""

    name = "creation"
    rules = RULES
