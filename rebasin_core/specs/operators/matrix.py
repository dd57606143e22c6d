"""Functions of matrices that commute with permutations of rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.indexing import frozen
from rebasin_core.specs.operators.reduction import dims_of
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms


def matrix_function(call: Call) -> Result:
    """Tie rows and columns, because ``f(P A P^T) = P f(A) P^T``.

    Args:
        call: ``matrix_exp``, ``linalg_matrix_power`` and the like.

    Returns:
        The axes of the result, equal to those of the argument.
    """
    *batch, rows, columns = call.first
    both = call.unify(rows, columns)
    call.observe((*batch, both))
    return (*batch, both, both)


def inverse(call: Call) -> Result:
    """Swap rows and columns, because ``(P A Q)^-1 = Q^T A^-1 P^T``, also for pseudoinverses.

    Args:
        call: ``linalg_inv``, ``linalg_pinv`` and the like.

    Returns:
        The axes of the inverses, and of one error code per matrix if returned.
    """
    if call.arguments.get("hermitian") or len(call.tensors) > 1:
        return frozen(call)  # one triangle is read, or a tensor of tolerances is given
    *batch, rows, columns = _matrices(call, call.first)
    return [(*batch, columns, rows), *(tuple(batch) for _ in call.shapes[1:])]


def solve(call: Call) -> Result:
    """Tie the rows of the matrix to the right-hand sides; its columns are the unknowns.

    Args:
        call: ``linalg_solve(A, B, left=True)``.

    Returns:
        The axes of the solutions.
    """
    *batch, equations, unknowns = _matrices(call, call.tensor("A"))
    right = call.tensor("B")
    vectors = len(right) == 1 or tuple(map(length, right)) == tuple(map(length, call.tensor("A")[:-1]))
    if not call.arguments.get("left", True):
        both = call.broadcast(tuple(batch), right[:-2])
        call.contract(right[-1], unknowns, both)
        return (*both, right[-2], equations)
    lead = right[:-1] if vectors else right[:-2]
    rows, *rest = right[len(lead) :]
    both = call.broadcast(tuple(batch), lead)
    call.contract(rows, equations, both)
    return (*both, unknowns, *rest)


def determinant(call: Call) -> Result:
    """Tie rows and columns and drop both; permuting only one of them may change the sign.

    Args:
        call: ``linalg_det``, ``slogdet``, ``logdet``.

    Returns:
        The batch axes, for each output.
    """
    *batch, rows, columns = call.first
    call.observe((*batch, call.unify(rows, columns)))
    return [tuple(batch)] * len(call.shapes)


def invariant(call: Call) -> Result:
    """Drop rows and columns: the result does not depend on their order.

    Args:
        call: ``linalg_matrix_norm``, ``linalg_svdvals``, ``linalg_matrix_rank`` and the like.

    Returns:
        The other axes, and a fixed axis for sorted singular values.
    """
    if call.arguments.get("hermitian") or len(call.tensors) > 1:
        return frozen(call)  # one triangle is read, or a tensor of tolerances is given
    terms = call.first
    dims = dims_of(call) if call.arguments.get("dim") else {len(terms) - 2, len(terms) - 1}
    _matrices(call, (*(term for dim, term in enumerate(terms) if dim not in dims), *(terms[dim] for dim in dims)))
    kept = bool(call.arguments.get("keepdim", False))
    remaining = tuple(() if dim in dims else term for dim, term in enumerate(terms) if kept or dim not in dims)
    return (*remaining, *(call.fixed(size, "singular values are sorted") for size in call.shapes[0][len(remaining) :]))


def _matrices(call: Call, terms: AxisTerms) -> AxisTerms:
    """Record that rows and columns are mixed: neither can be permuted differently along the other."""
    *batch, rows, columns = terms
    call.observe((*batch, rows))
    call.observe((*batch, columns))
    return terms


_FUNCTIONS = ("matrix_exp", "linalg_matrix_exp", "linalg_matrix_power", "matrix_power")
_INVERSES = ("linalg_inv", "linalg_inv_ex", "inverse", "linalg_pinv", "pinverse")
_DETERMINANTS = ("linalg_det", "det", "linalg_slogdet", "slogdet", "logdet")
_INVARIANTS = ("linalg_matrix_norm", "linalg_svdvals", "linalg_matrix_rank", "nuclear_norm", "linalg_cond")

RULES: dict[str, Rule] = {
    **{f"aten.{name}": matrix_function for name in _FUNCTIONS},
    **{f"aten.{name}": inverse for name in _INVERSES},
    **{f"aten.{name}": determinant for name in _DETERMINANTS},
    **{f"aten.{name}": invariant for name in _INVARIANTS},
    "aten.linalg_solve": solve,
}


@final
class MatrixRules(OperatorRules):
    """Rules for functions of matrices."""

    name = "matrix"
    rules = RULES
