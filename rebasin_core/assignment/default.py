"""Which solver is used where none is named."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver
from rebasin_core.assignment.compiled import CompiledAssignment
from rebasin_core.assignment.scipy_solver import ScipyAssignment
from rebasin_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def default_solver() -> AssignmentSolver:
    """Return the fastest exact solver that this machine has: `compiled`, or `scipy` where that cannot be built."""
    try:
        return CompiledAssignment()
    except ConfigError:
        return ScipyAssignment()


@final
class AutoAssignment(AssignmentSolver):
    """Solves exactly by the fastest solver that this machine has: `compiled`, or `scipy` where that cannot be built.

    Examples:
        >>> import torch
        >>> AutoAssignment().solve(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).index.tolist()
        [0, 1]
    """

    name: Literal["auto"] = "auto"

    @override
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        return default_solver().solve(similarity, start=start)


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
