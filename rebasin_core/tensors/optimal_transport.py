"""Optimal transport: plans between units, distances and orders of weighted sets of points, through POT."""

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

_MOST_PIVOTS = 10_000_000
# By so much, in parts of the largest entry of a plan, may the cost decide where plans are equal.
_TIE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class TransportPlan:
    """A transport plan, and whether it is the one that was asked for.

    Attributes:
        plan: ``[m, n]``, not negative, on the device of the cost.
        error: The sum of what the marginals were off when the iterations ended, in parts of the mass.
        converged: Whether the solver ended before its limit.
    """

    plan: Tensor
    error: float = 0.0
    converged: bool = True


@final
class TransportSolver(Options):
    r"""Finds the transport plan of least cost between units that carry equal mass.

    $$ \min_{T \ge 0} \; \langle T, C \rangle \quad\text{with}\quad T 1 = \tfrac1m 1,\; T^\top 1 = \tfrac1n 1 $$

    ``entropic`` adds $\varepsilon$ times the Kullback-Leibler divergence of the plan from the uniform one (the entropy
    $\sum T \log T$, but for a constant). ``unbalanced`` adds this too, and replaces the constraints on the marginals by
    $\rho$ times their divergences; the least cost counts as zero. ``partial`` transports only a share of the mass.
    A plan that did not converge gives a warning, and meets the marginals of its problem all the same.

    Raises:
        ConfigError: If an option is invalid.

    References:
        R. Flamary et al. (2021), "POT: Python Optimal Transport", JMLR 22(78); M. Cuturi (2013), arXiv 1306.0895;
        L. Chizat et al. (2018), "Scaling algorithms for unbalanced optimal transport problems", Math. Comp. 87.

    Examples:
        >>> TransportSolver().plan(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """

    method: PlanMethod = "exact"
    """The transport problem: ``exact``, ``entropic``, ``unbalanced`` or ``partial``."""

    regularization: PositiveFloat = 0.05
    r"""Strength $\varepsilon$ of the entropic regularization, in units of the cost's standard deviation."""

    relaxation: PositiveFloat = 1.0
    r"""Weight $\rho$ of the divergence from the marginals for ``unbalanced``, in the same units."""

    mass: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the mass that ``partial`` transports."""

    def plan(self, cost: Tensor) -> Tensor:
        """Return the plan of least cost; one that did not converge gives a warning.

        Args:
            cost: ``[m, n]``, finite.

        Returns:
            ``[m, n]``, not negative; of total mass 1, or the part that is carried.

        Raises:
            InvalidInputError: If a cost is infinite or NaN.
        """
        found = self.solve(cost)
        if not found.converged:
            size = "x".join(map(str, cost.shape))
            message = f"the {self.method} transport plan of a {size} cost did not converge"
            if self.method in {"entropic", "unbalanced"}:
                message += (
                    f": its marginals were off by {found.error:.1e} of the mass when the iterations ended. Use a "
                    f"larger `regularization` than {self.regularization:g}, or the method `exact`"
                )
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return found.plan

    def solve(self, cost: Tensor) -> TransportPlan:
        """Return the plan of least cost, and whether it converged.

        Args:
            cost: ``[m, n]``, finite.

        Returns:
            The plan; of total mass 1, or the part that is carried.

        Raises:
            InvalidInputError: If a cost is infinite or NaN.
        """
        if not bool(torch.isfinite(cost).all()):
            message = (
                f"expected finite costs of transport, got NaN or infinity in a matrix of shape {tuple(cost.shape)}"
            )
            raise InvalidInputError(message)
        rows, columns = cost.shape
        if self.method == "exact" and rows == columns:  # ends at a permutation, for which there is a faster solver
            plan = torch.zeros_like(cost)
            return TransportPlan(plan.scatter_(1, solve_assignment(-cost).unsqueeze(1), 1 / rows))
        scaled = _in_deviations(cost)
        if self.method in {"entropic", "unbalanced"}:
            relaxation = self.relaxation if self.method == "unbalanced" else math.inf
            found = entropic_plan(scaled, self.regularization, relaxation)
            return TransportPlan(found.plan.to(cost.dtype), found.error, converged=found.converged)
        carried = self.mass if self.method == "partial" else 1.0
        found_plan, ended = _simplex(scaled, carried)
        return TransportPlan(found_plan.to(device=cost.device, dtype=cost.dtype), converged=ended)


def _in_deviations(cost: Tensor) -> Tensor:
    """Return what costs are above the least one, in units of their standard deviation, in float64.

    Costs that are equal up to the rounding of their type are equal.
    """
    exact = cost.double()
    above = exact - exact.min()
    largest = above.max().item()
    if largest <= torch.finfo(cost.dtype).eps * exact.abs().max().item():
        return torch.zeros_like(above)
    above /= largest  # squares neither over- nor underflow
    return above / above.std()


def _simplex(cost: Tensor, carried: float) -> tuple[Tensor, bool]:
    """Return the exact plan that carries a share of the mass, from POT's network simplex, and whether it ended.

    What is not carried goes to, or comes from, one more point at no cost; nothing goes from that point to itself
    (L. Chapel, M. Alaya, G. Gasso (2020), "Partial optimal transport with applications on positive-unlabeled learning",
    NeurIPS, arXiv 2002.08276, proposition 1).
    """
    import ot  # ruff: ignore[import-outside-top-level] - POT looks for every array library on import

    rows, columns = cost.shape
    matrix = np.pad(cost.cpu().numpy(), (0, 1))
    matrix[-1, -1] = 2 * matrix.max() + 1
    weights = [np.append(np.full(size, 1 / size), 1 - carried) for size in (rows, columns)]
    if carried == 1:
        matrix = np.ascontiguousarray(matrix[:-1, :-1])
        weights = [mass[:-1] for mass in weights]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by the caller, in the words of this project
        plan, log = ot.emd(*weights, matrix, numItermax=_MOST_PIVOTS, log=True)
    return torch.from_numpy(plan[:rows, :columns]), log["warning"] is None


def nearest_permutation(plan: Tensor, cost: Tensor) -> Tensor:
    """Return the permutation that carries most of a plan's mass; where plans are equal, at the least cost.

    Args:
        plan: ``[n, n]``.
        cost: ``[n, n]``, of which the plan is made.

    Returns:
        ``[n]``.
    """
    largest = plan.max().clamp_min(1e-300)
    spread = (cost.max() - cost.min()).clamp_min(1e-300)
    return solve_assignment((plan / largest - _TIE * cost / spread).double())


def squared_distances(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the squared Euclidean distances between two sets of points, each spread over named tensors.

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
    """Return the squared Euclidean distance between two points, each spread over named tensors, in float64.

    Args:
        first: Named tensors.
        second: Tensors of the same names and shapes, and perhaps others.

    Returns:
        A number.
    """
    return sum((t.double() - second[name].to(t.device).double()).square().sum().item() for name, t in first.items())


def orthogonal_procrustes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the rows of one matrix, rotated among themselves to come nearest to those of another.

    $$ Q B, \qquad Q = \operatorname*{argmin}_{Q^\top Q = I} \lVert A - Q B \rVert_F = U V^\top,
       \qquad A B^\top = U S V^\top $$

    Args:
        first: $A$: ``[R, *s]`` for every name, each row spread over the names.
        second: $B$: the same names and shapes.

    Returns:
        $Q B$, of the form of ``second``.

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
    """Return points in the order in which they are nearest, in the mean square, to as many others.

    Args:
        first: ``[K, *s]`` for every name: the points that stay.
        second: The same names and shapes.

    Returns:
        ``second``, its points reordered.
    """
    index = solve_assignment(-squared_distances(first, second))
    return {name: tensor.index_select(0, index.to(tensor.device)) for name, tensor in second.items()}


def transport_cost(weights: Tensor, other_weights: Tensor, cost: Tensor) -> float:
    """Return the least total cost of moving one weighted set of points onto another.

    Args:
        weights: ``[K]``, not negative, summing to 1.
        other_weights: ``[L]``, the same.
        cost: ``[K, L]``.

    Returns:
        The cost of an optimal plan, exact.

    References:
        R. Flamary et al. (2021), "POT: Python Optimal Transport", JMLR 22(78).
    """
    import ot  # ruff: ignore[import-outside-top-level] - POT looks for every array library on import, which takes seconds

    arrays = [tensor.double().cpu().numpy() for tensor in (weights, other_weights, cost)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said here, in the words of this project
        total, log = ot.emd2(*arrays, numItermax=_MOST_PIVOTS, log=True, return_matrix=True)
    if log["warning"] is not None:
        message = (
            f"the transport between {len(weights)} and {len(other_weights)} points did not converge: {log['warning']}"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return float(total)
