"""Optimal transport between two weighted sets of points, through POT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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
