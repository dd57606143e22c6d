"""Optimal transport: plans between units, distances and orders of weighted sets of points, through POT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveFloat

from rebasin_core.assignment import solve_assignment
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

PlanMethod: TypeAlias = Literal["exact", "entropic", "unbalanced", "partial"]

_MOST_ITERATIONS = 5000
# By so much, in parts of the largest entry of a plan, may the cost decide where plans are equal.
_TIE = 1e-3


@final
class TransportSolver(Options):
    r"""Finds the transport plan of least cost between units that carry equal mass.

    $$ \min_{T \ge 0} \; \langle T, C \rangle \quad\text{with}\quad T 1 = \tfrac1m 1,\; T^\top 1 = \tfrac1n 1 $$

    ``entropic`` adds $\varepsilon \sum T \log T$. ``unbalanced`` adds this too, and replaces the constraints on the
    marginals by $\rho$ times their Kullback-Leibler divergence. ``partial`` transports only a share of the mass.

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

    plan_cost = ot.emd2(
        weights.double().cpu().numpy(), other_weights.double().cpu().numpy(), cost.double().cpu().numpy()
    )
    return float(plan_cost)
