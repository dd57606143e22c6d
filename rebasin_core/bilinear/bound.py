"""Upper bound of the objective of a coordinate descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.bilinear.products import picked, sorted_product
from rebasin_core.bilinear.stacked_cell import whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.assignment import Assignment, AssignmentSolver
    from rebasin_core.bilinear.similarity import SimilarityMatrices
    from rebasin_core.bilinear.terms import Term


def upper_bound(
    terms_of_group: Mapping[str, Sequence[Term]],
    similarities: SimilarityMatrices,
    solver: AssignmentSolver,
    indices: Mapping[str, Tensor],
    last: Mapping[str, Assignment],
) -> float:
    """Return an upper bound of a sum of bilinear assignment problems over all permutations.

    Terms on which a single group acts contribute their best assignment, solved for matrices and found by sorting for
    vectors. All other terms contribute the product of their norms (Cauchy-Schwarz).

    Args:
        terms_of_group: The terms on which each group acts.
        similarities: The similarity matrices of the groups.
        solver: Solver of the assignment problems.
        indices: Any indices of the groups.
        last: The last assignment of each group; used if it is optimal for all permutations of the other groups.

    Returns:
        The bound, up to rounding.
    """
    bound = 0.0
    for name, terms in terms_of_group.items():
        single = [term for term in terms if term.groups == (name,)]
        if any(len(term.atoms) > 1 for term in single):
            constant = similarities.constant_part(name, indices)
            # If these are all terms, the group was optimized already; a warm start would take longer than a cold one.
            solved = last.get(name) if len(single) == len(terms) else None
            bound += picked(constant, (solved or solver.solve(constant)).index).double().sum().item()
        else:
            bound += sum(sorted_product(whole(term.reference), whole(term.candidate)) for term in single)
    shared = dict.fromkeys(term for terms in terms_of_group.values() for term in terms if len(term.groups) > 1)
    return bound + sum(term.bound for term in shared)
