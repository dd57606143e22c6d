"""Transport plans between two sets of units, through POT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch

from rebasin_core.assignment import solve_assignment
from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

PlanMethod: TypeAlias = Literal["exact", "entropic", "unbalanced", "partial"]

_MOST_ITERATIONS = 5000
# By so much, in parts of the largest entry of a plan, may the cost decide where plans are equal.
_TIE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class TransportSolver:
    r"""Finds how mass, spread evenly over units, is carried at the least cost.

    $$ \min_{T \ge 0} \; \langle T, C \rangle \quad\text{with}\quad T 1 = \tfrac1m 1,\; T^\top 1 = \tfrac1n 1 $$

    and, ``entropic``, plus $\varepsilon \sum T \log T$; ``unbalanced``, with the marginals not fixed but held by
    $\rho$ times their Kullback-Leibler divergence, too; ``partial``, with only a part of the mass carried.

    Args:
        method: Which of them.
        regularization: $\varepsilon$ in units of the cost's standard deviation, positive.
        relaxation: $\rho$ in the same units, positive.
        mass: The part that is carried by ``partial``, above 0 and at most 1.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        R. Flamary et al. (2021), "POT: Python Optimal Transport", JMLR 22(78); M. Cuturi (2013), arXiv 1306.0895;
        L. Chizat et al. (2018), "Scaling algorithms for unbalanced optimal transport problems", Math. Comp. 87.
    """

    method: PlanMethod = "exact"
    regularization: float = 0.05
    relaxation: float = 1.0
    mass: float = 0.9

    def __post_init__(self) -> None:
        """Check the options."""
        positive = self.regularization > 0 and self.relaxation > 0 and 0 < self.mass <= 1
        if self.method not in get_args(PlanMethod) or not positive:
            message = (
                f"expected a method among {get_args(PlanMethod)}, a positive regularization and relaxation and a mass "
                f"between 0 and 1, got {self.method!r}, {self.regularization!r}, {self.relaxation!r}, {self.mass!r}"
            )
            raise InvalidInputError(message)

    def plan(self, cost: Tensor) -> Tensor:
        """Return the plan of least cost.

        Args:
            cost: ``[m, n]``, finite.

        Returns:
            ``[m, n]``, not negative; of total mass 1, or the part that is carried.
        """
        rows, columns = cost.shape
        if self.method == "exact" and rows == columns:  # ends at a permutation, for which there is a faster solver
            plan = torch.zeros_like(cost)
            return plan.scatter_(1, solve_assignment(-cost).unsqueeze(1), 1 / rows)
        return self._pot(cost)

    def _pot(self, cost: Tensor) -> Tensor:
        import ot  # ruff: ignore[import-outside-top-level] - POT looks for every array library on import

        exact = cost.double()
        weights = [exact.new_full((size,), 1 / size) for size in cost.shape]
        scale = max(exact.std().item(), 1e-300) if exact.numel() > 1 else 1.0
        exact /= scale
        if self.method == "entropic":
            plan = ot.sinkhorn(
                *weights, exact, self.regularization, method="sinkhorn_log", numItermax=_MOST_ITERATIONS, warn=False
            )
        elif self.method == "unbalanced":
            plan = ot.unbalanced.sinkhorn_unbalanced(
                *weights, exact - exact.min(), self.regularization, self.relaxation, numItermax=_MOST_ITERATIONS
            )
        else:  # network simplex, on the CPU
            arrays = [tensor.cpu().numpy() for tensor in (*weights, exact - exact.min())]
            carried = min(self.mass, 1.0 - 1e-9)  # all of it is the exact problem
            partial = self.method == "partial" and self.mass < 1
            plan = ot.partial.partial_wasserstein(*arrays, m=carried) if partial else ot.emd(*arrays)
        return torch.as_tensor(plan, device=cost.device).to(cost.dtype)


def nearest_permutation(plan: Tensor, cost: Tensor) -> Tensor:
    """Return the permutation that carries most of a plan's mass; where plans are equal, at the least cost.

    Args:
        plan: ``[n, n]``.
        cost: ``[n, n]``, of which the plan is made.

    Returns:
        ``[n]``.
    """
    largest, spread = plan.max().clamp_min(1e-300), (cost.max() - cost.min()).clamp_min(1e-300)
    return solve_assignment((plan / largest - _TIE * cost / spread).double())
