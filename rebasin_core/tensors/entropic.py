"""Entropic transport plans: Sinkhorn's iterations in the logarithm, with the regularization lowered step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_MOST_ITERATIONS = 2000
# Iterations with each larger regularization, on the way to the one that is asked for.
_ITERATIONS_BEFORE = 200
# To look at the marginals takes as long as an iteration.
_LOOK_EVERY = 10
# Where iterations get on slowly, between parts that exchange almost no mass, a step of Newton's method does not.
_NEWTON_EVERY = 100
_RIDGE = 1e-15
_TOLERANCE = 1e-7
_LOWERED_BY = 0.5


@final
@dataclass(frozen=True, slots=True)
class EntropicPlan:
    """A plan, and how far it is from what was asked for.

    Attributes:
        plan: ``[m, n]`` in float64.
        error: The sum of what the marginals lacked or had too much when the iterations ended.
        converged: Whether that is within the tolerance.
    """

    plan: Tensor
    error: float
    converged: bool


def entropic_plan(cost: Tensor, regularization: float, relaxation: float = math.inf) -> EntropicPlan:
    r"""Return the plan of least cost and entropy between points of equal mass.

    $$ \min_{T \ge 0} \; \langle T, C \rangle + \varepsilon \, \mathrm{KL}\bigl(T \,\|\, \tfrac{1}{mn} 1 1^\top\bigr)
       + \rho \, \mathrm{KL}\bigl(T 1 \,\|\, \tfrac1m 1\bigr)
       + \rho \, \mathrm{KL}\bigl(T^\top 1 \,\|\, \tfrac1n 1\bigr) $$

    Without a relaxation the marginals are met: what the iterations left of an error is spread over the plan at the end.

    Args:
        cost: $C$: ``[m, n]``, finite, in float64.
        regularization: $\varepsilon$, in the units of the cost.
        relaxation: $\rho$, in the same units; infinity holds the marginals.

    Returns:
        The plan.

    References:
        J. Feydy (2020), "Geometric data analysis, beyond convolutions", section 3.3 (annealing); T. Sejourne,
        F.-X. Vialard, G. Peyre (2022), "Faster unbalanced optimal transport: translation invariant Sinkhorn",
        AISTATS, arXiv 2201.00730; J. Altschuler, J. Weed, P. Rigollet (2017), "Near-linear time approximation
        algorithms for optimal transport via Sinkhorn iteration", NeurIPS, arXiv 1705.09634, algorithm 2 (marginals).

    Examples:
        >>> plan = entropic_plan(torch.zeros(2, 2, dtype=torch.float64), 0.1).plan
        >>> plan.tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    dual = _Dual(cost, relaxation)
    error = math.inf
    for strength in _lowered((cost.max() - cost.min()).item(), regularization):
        last = strength == regularization
        error = dual.improve(strength, _MOST_ITERATIONS if last else _ITERATIONS_BEFORE)
    plan = dual.plan(regularization)
    if math.isinf(relaxation):
        plan = _with_marginals(plan)
    return EntropicPlan(plan, error, converged=error <= _TOLERANCE)


def _lowered(largest: float, regularization: float) -> Iterator[float]:
    """Yield regularizations that fall from the range of the costs down to the one that is asked for."""
    strength = largest
    while strength > regularization:
        yield strength
        strength *= _LOWERED_BY
    yield regularization


@final
class _Dual:
    """The potentials of rows and columns."""

    def __init__(self, cost: Tensor, relaxation: float) -> None:
        self._cost = cost
        self._relaxation = relaxation
        self._row_mass = -math.log(cost.shape[0])
        self._column_mass = -math.log(cost.shape[1])
        self._rows = cost.new_zeros(cost.shape[0], 1)
        self._columns = cost.new_zeros(1, cost.shape[1])

    def plan(self, strength: float) -> Tensor:
        """Return the plan that the potentials stand for."""
        logs = (self._rows + self._columns - self._cost) / strength
        return (logs + (self._row_mass + self._column_mass)).exp()

    def improve(self, strength: float, iterations: int) -> float:
        """Improve the potentials in turn, until the marginals are right; return the error that is left."""
        error = math.inf
        for number in range(1, iterations + 1):
            self._improve_once(strength)
            if number % _LOOK_EVERY == 0 or number == iterations:
                error = self._error(strength)
                if error > _TOLERANCE and number % _NEWTON_EVERY == 0:
                    error = self._leap(strength, error)
                if error <= _TOLERANCE:
                    break
        return error

    def _improve_once(self, strength: float) -> None:
        held = 1.0 if math.isinf(self._relaxation) else self._relaxation / (self._relaxation + strength)
        logs = (self._columns - self._cost) / strength + self._column_mass
        self._rows = -held * strength * torch.logsumexp(logs, 1, keepdim=True)
        logs = (self._rows - self._cost) / strength + self._row_mass
        self._columns = -held * strength * torch.logsumexp(logs, 0, keepdim=True)
        if held < 1:
            # The best constant to move from the columns to the rows, which iterations find slowly.
            both = (self._rows.flatten(), self._row_mass), (self._columns.flatten(), self._column_mass)
            masses = [torch.logsumexp(mass - potentials / self._relaxation, 0) for potentials, mass in both]
            shift = self._relaxation / 2 * (masses[0] - masses[1])
            self._rows += shift
            self._columns -= shift

    def _leap(self, strength: float, error: float) -> float:
        """Take a step of Newton's method if that lessens the error; return the error."""
        before = self._rows, self._columns
        plan = self.plan(strength)
        masses, wanted = self._masses(plan)
        hessian = torch.diag(masses + wanted * (strength / self._relaxation) + _RIDGE)
        height = len(plan)
        hessian[:height, height:] = plan
        hessian[height:, :height] = plan.T
        if math.isinf(self._relaxation):  # a constant may go from the rows to the columns: it is held
            sign = torch.ones_like(masses)
            sign[height:] = -1
            hessian += torch.outer(sign, sign) / len(sign) ** 2
        factor, failed = torch.linalg.cholesky_ex(hessian)
        step = strength * torch.cholesky_solve((wanted - masses).unsqueeze(1), factor)
        self._rows = before[0] + step[:height]
        self._columns = before[1] + step[height:].T
        after = self._error(strength)
        if failed.item() or not after < error:
            self._rows, self._columns = before
            return error
        return after

    def _masses(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginals of a plan, rows and then columns, and what the potentials want them to be."""
        rows = (self._row_mass - self._rows / self._relaxation).exp()
        columns = (self._column_mass - self._columns / self._relaxation).exp()
        return torch.cat([plan.sum(1), plan.sum(0)]), torch.cat([rows.flatten(), columns.flatten()])

    def _error(self, strength: float) -> float:
        masses, wanted = self._masses(self.plan(strength))
        return (masses - wanted).abs().sum().item()


def _with_marginals(plan: Tensor) -> Tensor:
    """Return a plan near to another one that has the marginals, all rows alike and all columns alike."""
    rows = 1 / plan.shape[0]
    columns = 1 / plan.shape[1]
    least = plan * (rows / plan.sum(1, keepdim=True)).clamp_max(1)
    least *= (columns / least.sum(0, keepdim=True)).clamp_max(1)
    missing = (rows - least.sum(1, keepdim=True)).clamp_min(0)
    lacking = (columns - least.sum(0, keepdim=True)).clamp_min(0)
    total = missing.sum()
    return least if total <= 0 else least + missing * lacking / total
