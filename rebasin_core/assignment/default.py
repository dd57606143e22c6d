"""The default solver: the compiled kernel, or SciPy if the kernel is not available."""

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
    """The default solver on this machine, and the reason.

    Attributes:
        solver: The solver: `compiled` or `scipy`.
        reason: Origin of the compiled kernel, or the reason why it cannot be used.
    """

    solver: AssignmentSolver
    reason: str

    @override
    def __str__(self) -> str:
        return f"`{self.solver.name}`: {self.reason}"


@functools.cache
def which_solver() -> SolverChoice:
    """Return the default solver and the reason: `compiled` if the kernel is available, else `scipy`.

    The choice is made once per process. A `SlowSolverWarning` is issued for `scipy`, unless ``REBASIN_COMPILE=0`` is
    set.

    Returns:
        The choice; converted to a string, it is one line.

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
            f"the compiled assignment kernel cannot be used: {reason}. SciPy is used instead, which is exact but "
            "slower. Install a C compiler, or set REBASIN_COMPILE=0 to use SciPy without this warning"
        )
        warnings.warn(message, SlowSolverWarning, stacklevel=3)
    return SolverChoice(ScipyAssignment(), reason)


def default_solver() -> AssignmentSolver:
    """Return the default solver: `compiled` if the kernel is available, else `scipy`.

    Returns:
        The solver of `which_solver`.
    """
    return which_solver().solver


@final
class AutoAssignment(AssignmentSolver):
    """Exact solver: `compiled` if the kernel is available, else `scipy`.

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
    r"""Return the assignment that maximizes the total similarity, exactly.

    $$ p^* = \operatorname*{argmax}_{p} \sum_i A_{i, p(i)} $$

    Args:
        similarity: ``[*batch, m, n]`` with ``m <= n``, one problem for each leading index.

    Returns:
        Column indices ``[*batch, m]``, on the device of ``similarity``.

    Raises:
        InvalidInputError: If there are more rows than columns, or entries are NaN or plus infinity.
    """
    return default_solver().solve(similarity).index
