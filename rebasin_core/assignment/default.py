"""Which solver is used where none is named."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from rebasin_core.assignment.compiled import CompiledAssignment
from rebasin_core.assignment.scipy_solver import ScipyAssignment
from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.assignment.base import AssignmentSolver


@functools.cache
def default_solver() -> AssignmentSolver:
    """Return the fastest exact solver that this machine has: `compiled`, or `scipy` where that cannot be built."""
    try:
        return CompiledAssignment()
    except InvalidInputError:
        return ScipyAssignment()


def solve_assignment(similarity: Tensor) -> Tensor:
    r"""Return the assignment that maximises the total similarity, exactly.

    $$ p^* = \operatorname*{argmax}_{p} \sum_i A_{i, p(i)} $$

    Args:
        similarity: ``[*batch, m, n]`` with ``m <= n``, one problem for each leading index.

    Returns:
        ``[*batch, m]`` indices on the device of ``similarity``.

    Raises:
        InvalidInputError: If there are more rows than columns, or entries are NaN or plus infinity.
    """
    return default_solver().solve(similarity).index
