"""Optimal transport: plans between units, and distances between weighted sets of points."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import numpy as np
import torch
from pydantic import Field, PositiveFloat

from rebasin_core.assignment import solve_assignment
from rebasin_core.errors import ConvergenceWarning, InvalidInputError
from rebasin_core.strategy import Options
from rebasin_core.tensors.entropic import entropic_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

PlanMethod: TypeAlias = Literal["exact", "entropic", "unbalanced", "partial"]

_MAX_PIVOTS = 10_000_000
# Weight of the cost in rounding a plan, relative to the plan's largest entry: it decides only ties.
_TIE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class TransportPlan:
    """A transport plan, and whether the solver converged.

    Attributes:
        plan: ``[m, n]``, not negative, on the device of the cost.
        error: L1 norm of the error of the marginals after the last iteration, relative to a total mass of 1.
        converged: Whether the solver converged within its limit of iterations.
    """

    plan: Tensor
    error: float = 0.0
    converged: bool = True


@final
class TransportSolver(Options):
    r"""Solver of transport problems between $m$ and $n$ units of equal mass.

    $$ \min_{T \ge 0} \; \langle T, C \rangle \quad\text{with}\quad T 1 = \tfrac1m 1,\; T^\top 1 = \tfrac1n 1 $$

    - ``exact`` solves this problem: by linear assignment if $m = n$, otherwise by POT's network simplex.
    - ``entropic`` adds $\varepsilon$ times the KL divergence of the plan from the uniform plan (up to a constant, the
      negative entropy $\sum T \log T$).
    - ``unbalanced`` adds the same, and replaces the constraints by $\rho$ times the KL divergences of the marginals
      from uniform ones. Costs are shifted to a minimum of zero.
    - ``partial`` transports only a share ``mass`` of the total mass.

    A plan that did not converge gives a warning; balanced plans have the given marginals even then.

    Raises:
        ConfigError: If an option is invalid.

    References:
        R. Flamary et al. (2021), "POT: Python Optimal Transport", JMLR 22(78); M. Cuturi (2013), "Sinkhorn distances:
        lightspeed computation of optimal transport", NeurIPS, arXiv 1306.0895; L. Chizat et al. (2018), "Scaling
        algorithms for unbalanced optimal transport problems", Math. Comp. 87.

    Examples:
        >>> TransportSolver().plan(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """

    method: PlanMethod = "exact"
    """Transport problem: ``exact``, ``entropic``, ``unbalanced`` or ``partial``, see above."""

    regularization: PositiveFloat = 0.05
    r"""Strength $\varepsilon$ of the entropic regularization, in units of the cost's standard deviation."""

    relaxation: PositiveFloat = 1.0
    r"""Weight $\rho$ of the divergences of the marginals for ``unbalanced``, in the same units."""

    mass: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the mass that ``partial`` transports, in (0, 1]."""

    def plan(self, cost: Tensor) -> Tensor:
        """Return the optimal plan; warn if the solver did not converge.

        Args:
            cost: Ground cost ``[m, n]``, finite.

        Returns:
            The plan ``[m, n]``, not negative. Its total mass is 1 for ``exact`` and ``entropic``, and ``mass`` for
            ``partial``.

        Raises:
            InvalidInputError: If a cost is infinite or NaN.
        """
        found = self.solve(cost)
        if not found.converged:
            size = "x".join(map(str, cost.shape))
            message = f"the {self.method} transport plan of a {size} cost did not converge"
            if self.method in {"entropic", "unbalanced"}:
                message += (
                    f": the error of its marginals was {found.error:.1e} of the mass after the last iteration. Use a "
                    f"larger `regularization` than {self.regularization:g}, or the method `exact`"
                )
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return found.plan

    def solve(self, cost: Tensor) -> TransportPlan:
        """Return the optimal plan, and whether the solver converged.

        Args:
            cost: Ground cost ``[m, n]``, finite.

        Returns:
            The plan, of mass as in `plan`, with its convergence.

        Raises:
            InvalidInputError: If a cost is infinite or NaN.
        """
        if not bool(torch.isfinite(cost).all()):
            message = f"expected finite transport costs, got NaN or infinity in a matrix of shape {tuple(cost.shape)}"
            raise InvalidInputError(message)
        rows, columns = cost.shape
        if self.method == "exact" and rows == columns:  # an optimal plan is a permutation, which is faster to solve
            plan = torch.zeros_like(cost)
            return TransportPlan(plan.scatter_(1, solve_assignment(-cost).unsqueeze(1), 1 / rows))
        scaled = _standardized(cost)
        if self.method in {"entropic", "unbalanced"}:
            relaxation = self.relaxation if self.method == "unbalanced" else math.inf
            found = entropic_plan(scaled, self.regularization, relaxation)
            return TransportPlan(found.plan.to(cost.dtype), found.error, converged=found.converged)
        mass = self.mass if self.method == "partial" else 1.0
        found_plan, converged = _simplex(scaled, mass)
        return TransportPlan(found_plan.to(device=cost.device, dtype=cost.dtype), converged=converged)


def _standardized(cost: Tensor) -> Tensor:
    """Return costs minus their minimum, divided by their standard deviation, in float64.

    Costs that are equal up to the rounding of their dtype are set to 0.
    """
    exact = cost.double()
    shifted = exact - exact.min()
    largest = shifted.max().item()
    if largest <= torch.finfo(cost.dtype).eps * exact.abs().max().item():
        return torch.zeros_like(shifted)
    shifted /= largest  # squares neither over- nor underflow
    return shifted / shifted.std()


def _simplex(cost: Tensor, share: float) -> tuple[Tensor, bool]:
    """Return the exact plan of a share of the mass by POT's network simplex, and whether it converged.

    The remaining mass is transported to and from a dummy point at zero cost; transport from the dummy point to itself
    has a cost that is too high to be used (L. Chapel, M. Alaya, G. Gasso (2020), "Partial optimal transport with
    applications on positive-unlabeled learning", NeurIPS, arXiv 2002.08276, proposition 1).
    """
    import ot  # ruff: ignore[import-outside-top-level] - POT searches for all array libraries on import

    rows, columns = cost.shape
    matrix = np.pad(cost.cpu().numpy(), (0, 1))
    matrix[-1, -1] = 2 * matrix.max() + 1
    weights = [np.append(np.full(size, 1 / size), 1 - share) for size in (rows, columns)]
    if share == 1:
        matrix = np.ascontiguousarray(matrix[:-1, :-1])
        weights = [mass[:-1] for mass in weights]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller warns
        plan, log = ot.emd(*weights, matrix, numItermax=_MAX_PIVOTS, log=True)
    return torch.from_numpy(plan[:rows, :columns]), log["warning"] is None


def nearest_permutation(plan: Tensor, cost: Tensor) -> Tensor:
    """Return the permutation with the largest total mass in a plan; ties are decided by the cost.

    Args:
        plan: Transport plan ``[n, n]``.
        cost: Ground cost ``[n, n]`` of the plan.

    Returns:
        The index ``[n]``.
    """
    largest = plan.max().clamp_min(1e-300)
    cost_range = (cost.max() - cost.min()).clamp_min(1e-300)
    return solve_assignment((plan / largest - _TIE * cost / cost_range).double())


def squared_distances(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the squared Euclidean distances between two sets of points, given by named tensors.

    Args:
        first: ``[K, *s]`` for every name.
        second: ``[L, *s]`` for every name.

    Returns:
        ``[K, L]`` in float64.
    """
    total: Tensor | float = 0.0
    for name, tensor in first.items():
        a = tensor.reshape(len(tensor), -1).double().to(tensor.device)
        b = second[name].reshape(len(second[name]), -1).double().to(tensor.device)
        total += torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.as_tensor(total)


def squared_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the squared Euclidean distance between two points, given by named tensors, in float64.

    Args:
        first: Named tensors.
        second: Tensors of the same names and shapes; others are ignored.

    Returns:
        The squared distance.
    """
    return sum((t.double() - second[name].to(t.device).double()).square().sum().item() for name, t in first.items())


def orthogonal_procrustes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the solution of the orthogonal Procrustes problem: the rows of one matrix, rotated to match another.

    $$ Q B, \qquad Q = \operatorname*{argmin}_{Q^\top Q = I} \lVert A - Q B \rVert_F = U V^\top,
       \qquad A B^\top = U S V^\top $$

    Args:
        first: $A$: ``[R, *s]`` for every name; the tensors are parts of its columns.
        second: $B$: tensors of the same names and shapes.

    Returns:
        $Q B$: tensors of the same names and shapes.

    References:
        P. Schoenemann (1966), "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31.
    """
    product: Tensor | float = 0.0
    for name, tensor in first.items():
        a = tensor.reshape(len(tensor), -1).double().to(tensor.device)
        b = second[name].reshape(len(second[name]), -1).double().to(tensor.device)
        product += a @ b.T
    left, _, right = torch.linalg.svd(torch.as_tensor(product))
    rotation = left @ right
    return {name: torch.tensordot(rotation.to(tensor), tensor, dims=1) for name, tensor in second.items()}


def assigned_onto(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return points in the order that minimizes the mean squared distance to other points.

    Args:
        first: Reference points, ``[K, *s]`` for every name.
        second: Points to reorder, of the same names and shapes.

    Returns:
        The points of ``second``, reordered.
    """
    index = solve_assignment(-squared_distances(first, second))
    return {name: tensor.index_select(0, index.to(tensor.device)) for name, tensor in second.items()}


def transport_cost(weights: Tensor, other_weights: Tensor, cost: Tensor) -> float:
    """Return the optimal transport cost between two weighted sets of points.

    Args:
        weights: Masses ``[K]`` of the first set, not negative, with sum 1.
        other_weights: Masses ``[L]`` of the second set, not negative, with sum 1.
        cost: Ground cost ``[K, L]``.

    Returns:
        The cost of an exact optimal plan.

    References:
        R. Flamary et al. (2021), "POT: Python Optimal Transport", JMLR 22(78).
    """
    import ot  # ruff: ignore[import-outside-top-level] - POT searches for all array libraries on import, which takes seconds

    arrays = [tensor.double().cpu().numpy() for tensor in (weights, other_weights, cost)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # replaced by the warning below
        total, log = ot.emd2(*arrays, numItermax=_MAX_PIVOTS, log=True, return_matrix=True)
    if log["warning"] is not None:
        message = (
            f"the transport between {len(weights)} and {len(other_weights)} points did not converge: {log['warning']}"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return float(total)
