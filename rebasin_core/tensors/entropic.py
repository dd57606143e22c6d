"""Entropic transport plans by log-domain Sinkhorn iterations with epsilon scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_MAX_ITERATIONS = 2000
# Maximum number of iterations for each larger regularization of epsilon scaling.
_SCALING_ITERATIONS = 200
# The error is evaluated after this number of iterations, since its evaluation takes as long as one.
_CHECK_EVERY = 10
# Iterations converge slowly between blocks that exchange almost no mass; Newton steps do not.
_NEWTON_EVERY = 100
_RIDGE = 1e-15
_TOLERANCE = 1e-7
_SCALING_FACTOR = 0.5


@final
@dataclass(frozen=True, slots=True)
class EntropicPlan:
    """An entropic transport plan, with the error of its marginals.

    Attributes:
        plan: ``[m, n]`` in float64.
        error: L1 norm of the error of the marginals after the last iteration, relative to a total mass of 1.
        converged: Whether the error is at most 1e-7.
    """

    plan: Tensor
    error: float
    converged: bool


def entropic_plan(cost: Tensor, regularization: float, relaxation: float = math.inf) -> EntropicPlan:
    r"""Return the entropic transport plan between points of equal mass, balanced or unbalanced.

    $$ \min_{T \ge 0} \; \langle T, C \rangle + \varepsilon \, \mathrm{KL}\bigl(T \,\|\, \tfrac{1}{mn} 1 1^\top\bigr)
       + \rho \, \mathrm{KL}\bigl(T 1 \,\|\, \tfrac1m 1\bigr)
       + \rho \, \mathrm{KL}\bigl(T^\top 1 \,\|\, \tfrac1n 1\bigr) $$

    With $\rho = \infty$ the returned plan has exactly the given marginals, because it is rounded after the last
    iteration.

    Args:
        cost: Ground cost $C$: ``[m, n]``, finite, in float64.
        regularization: $\varepsilon$, positive, in units of the cost.
        relaxation: $\rho$, positive, in units of the cost; infinity for fixed marginals.

    Returns:
        The plan.

    References:
        J. Feydy (2020), "Geometric data analysis, beyond convolutions", section 3.3 (epsilon scaling); T. Sejourne,
        F.-X. Vialard, G. Peyre (2022), "Faster unbalanced optimal transport: translation invariant Sinkhorn", AISTATS,
        arXiv 2201.00730; J. Altschuler, J. Weed, P. Rigollet (2017), "Near-linear time approximation algorithms for
        optimal transport via Sinkhorn iteration", NeurIPS, arXiv 1705.09634, algorithm 2 (rounding).

    Examples:
        >>> plan = entropic_plan(torch.zeros(2, 2, dtype=torch.float64), 0.1).plan
        >>> plan.tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    dual = _Dual(cost, relaxation)
    error = math.inf
    for strength in _scaled((cost.max() - cost.min()).item(), regularization):
        last = strength == regularization
        error = dual.improve(strength, _MAX_ITERATIONS if last else _SCALING_ITERATIONS)
    plan = dual.plan(regularization)
    if math.isinf(relaxation):
        plan = _rounded(plan)
    return EntropicPlan(plan, error, converged=error <= _TOLERANCE)


def _scaled(largest: float, regularization: float) -> Iterator[float]:
    """Yield regularizations that decrease geometrically from the range of the costs to the requested one."""
    strength = largest
    while strength > regularization:
        yield strength
        strength *= _SCALING_FACTOR
    yield regularization


@final
class _Dual:
    """The dual potentials of rows and columns."""

    def __init__(self, cost: Tensor, relaxation: float) -> None:
        self._cost = cost
        self._relaxation = relaxation
        self._log_row_mass = -math.log(cost.shape[0])
        self._log_column_mass = -math.log(cost.shape[1])
        self._rows = cost.new_zeros(cost.shape[0], 1)
        self._columns = cost.new_zeros(1, cost.shape[1])

    def plan(self, strength: float) -> Tensor:
        """Return the primal plan of the potentials."""
        logs = (self._rows + self._columns - self._cost) / strength
        return (logs + (self._log_row_mass + self._log_column_mass)).exp()

    def improve(self, strength: float, iterations: int) -> float:
        """Update the potentials until the error is within the tolerance; return the last error."""
        error = math.inf
        for iteration in range(1, iterations + 1):
            self._improve_once(strength)
            if iteration % _CHECK_EVERY == 0 or iteration == iterations:
                error = self._error(strength)
                if error > _TOLERANCE and iteration % _NEWTON_EVERY == 0:
                    error = self._newton_step(strength, error)
                if error <= _TOLERANCE:
                    break
        return error

    def _improve_once(self, strength: float) -> None:
        damping = 1.0 if math.isinf(self._relaxation) else self._relaxation / (self._relaxation + strength)
        logs = (self._columns - self._cost) / strength + self._log_column_mass
        self._rows = -damping * strength * torch.logsumexp(logs, 1, keepdim=True)
        logs = (self._rows - self._cost) / strength + self._log_row_mass
        self._columns = -damping * strength * torch.logsumexp(logs, 0, keepdim=True)
        if damping < 1:
            # The optimal constant shift between rows and columns, to which the iterations alone converge slowly.
            both = (self._rows.flatten(), self._log_row_mass), (self._columns.flatten(), self._log_column_mass)
            masses = [torch.logsumexp(mass - potentials / self._relaxation, 0) for potentials, mass in both]
            shift = self._relaxation / 2 * (masses[0] - masses[1])
            self._rows += shift
            self._columns -= shift

    def _newton_step(self, strength: float, error: float) -> float:
        """Take a Newton step if it reduces the error; return the error."""
        before = self._rows, self._columns
        plan = self.plan(strength)
        masses, targets = self._masses(plan)
        hessian = torch.diag(masses + targets * (strength / self._relaxation) + _RIDGE)
        height = len(plan)
        hessian[:height, height:] = plan
        hessian[height:, :height] = plan.T
        if math.isinf(self._relaxation):  # the dual is invariant to a constant shift between rows and columns: fix it
            sign = torch.ones_like(masses)
            sign[height:] = -1
            hessian += torch.outer(sign, sign) / len(sign) ** 2
        factor, failed = torch.linalg.cholesky_ex(hessian)
        step = strength * torch.cholesky_solve((targets - masses).unsqueeze(1), factor)
        self._rows = before[0] + step[:height]
        self._columns = before[1] + step[height:].T
        after = self._error(strength)
        if failed.item() or not after < error:
            self._rows, self._columns = before
            return error
        return after

    def _masses(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginals of a plan (rows, then columns), and their targets by the optimality conditions."""
        rows = (self._log_row_mass - self._rows / self._relaxation).exp()
        columns = (self._log_column_mass - self._columns / self._relaxation).exp()
        return torch.cat([plan.sum(1), plan.sum(0)]), torch.cat([rows.flatten(), columns.flatten()])

    def _error(self, strength: float) -> float:
        masses, targets = self._masses(self.plan(strength))
        return (masses - targets).abs().sum().item()


def _rounded(plan: Tensor) -> Tensor:
    """Return a nearby plan with uniform marginals (Altschuler, Weed, Rigollet 2017, algorithm 2)."""
    rows = 1 / plan.shape[0]
    columns = 1 / plan.shape[1]
    reduced = plan * (rows / plan.sum(1, keepdim=True)).clamp_max(1)
    reduced *= (columns / reduced.sum(0, keepdim=True)).clamp_max(1)
    missing_rows = (rows - reduced.sum(1, keepdim=True)).clamp_min(0)
    missing_columns = (columns - reduced.sum(0, keepdim=True)).clamp_min(0)
    total = missing_rows.sum()
    return reduced if total <= 0 else reduced + missing_rows * missing_columns / total
