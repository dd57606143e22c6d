"""Optimal transport between two weighted sets of points, through POT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.assignment import solve_assignment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


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
        a, b = (t.reshape(len(t), -1).double().to(tensor.device) for t in (tensor, second[name]))
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


def turned_onto(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
        a, b = (t.reshape(len(t), -1).double().to(tensor.device) for t in (tensor, second[name]))
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
