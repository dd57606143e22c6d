"""Which solver is used where none is named."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver
from rebasin_core.assignment.compiled import CompiledAssignment
from rebasin_core.assignment.kernel import KernelUnavailableError, is_turned_off, load_kernel
from rebasin_core.assignment.scipy_solver import ScipyAssignment
from rebasin_core.errors import SlowSolverWarning

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class SolverChoice:
    """The solver that is used where none is named.

    Attributes:
        solver: `compiled`, or `scipy`.
        reason: Where the compiled kernel comes from, or why it cannot be used.
    """

    solver: AssignmentSolver
    reason: str

    @override
    def __str__(self) -> str:
        return f"`{self.solver.name}`: {self.reason}"


@functools.cache
def which_solver() -> SolverChoice:
    """Return the solver that is used where none is named, and why: the fastest exact one that this machine has.

    The choice is made once a process. Unless ``REBASIN_COMPILE=0`` asks for it, the choice of `scipy` gives a warning.

    Returns:
        The choice; as text, one line.

    Examples:
        >>> which_solver().solver.name in {"compiled", "scipy"}
        True
    """
    try:
        kernel = load_kernel()
    except KernelUnavailableError as error:
        reason = str(error)
    else:
        return SolverChoice(CompiledAssignment(), f"the kernel was {kernel.origin}")
    if not is_turned_off():
        message = (
            f"the compiled assignment kernel cannot be used: {reason}. SciPy solves instead: exactly, but more slowly. "
            "Install a C compiler, or set REBASIN_COMPILE=0 to use SciPy without this warning"
        )
        warnings.warn(message, SlowSolverWarning, stacklevel=3)
    return SolverChoice(ScipyAssignment(), reason)


def default_solver() -> AssignmentSolver:
    """Return the fastest exact solver that this machine has: `compiled`, or `scipy` where that cannot be built.

    Returns:
        The solver of `which_solver`.
    """
    return which_solver().solver


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
