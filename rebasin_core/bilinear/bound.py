"""What no permutation can exceed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.bilinear.terms import picked, sorted_product

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.assignment import Assignment, AssignmentSolver
    from rebasin_core.bilinear.similarity import SimilarityMatrices
    from rebasin_core.bilinear.terms import Term


def upper_bound(
    touching: Mapping[str, Sequence[Term]],
    similarities: SimilarityMatrices,
    solver: AssignmentSolver,
    indices: Mapping[str, Tensor],
    last: Mapping[str, Assignment],
) -> float:
    """Return a bound of a sum of bilinear assignments that is cheap to know.

    Matrices that one group alone acts on count by the best assignment, vectors by their sorted entries (which is the
    best assignment for one channel), everything else by norms.

    Args:
        touching: For every group, the terms it stands in.
        similarities: What its units gain.
        solver: Solves the assignments.
        indices: Any permutation.
        last: What groups were last solved by; counts where nothing else can change what they gain.

    Returns:
        A number that no permutation exceeds, but for rounding.
    """
    bound = 0.0
    for name, terms in touching.items():
        alone = [term for term in terms if term.groups == (name,)]
        if any(len(term.atoms) > 1 for term in alone):
            constant = similarities.constant_part(name, indices)
            # Where that is all, it was solved before; from other prices it would take longer than from none.
            solved = last.get(name) if len(alone) == len(terms) else None
            bound += picked(constant, (solved or solver.solve(constant)).index).double().sum().item()
        else:
            bound += sum(sorted_product(term.reference, term.candidate) for term in alone)
    shared = dict.fromkeys(term for terms in touching.values() for term in terms if len(term.groups) > 1)
    return bound + sum(term.bound for term in shared)
