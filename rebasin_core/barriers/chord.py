"""The excess of a loss over the straight line between those of the endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.loss import LossEstimate

_ROUNDING = 1e-9


def excess_over_chord(part: str, t: float, at: LossEstimate, first: LossEstimate, last: LossEstimate) -> torch.Tensor:
    """Return the excess of an attribute of a loss estimate over the linear interpolation between the endpoints.

    Args:
        part: An attribute of `LossEstimate`.
        t: The interpolation coefficient of the estimate, in [0, 1].
        at: The estimate at t.
        first: The estimate at 0.
        last: The estimate at 1.

    Returns:
        The difference, float64.
    """
    values = [torch.as_tensor(getattr(estimate, part), dtype=torch.float64) for estimate in (at, first, last)]
    # An endpoint without noise may be run by another method, and then has another number of zeros.
    shape = next((value.shape for value in values if not _is_zero(value)), values[0].shape)
    padded = [value if value.shape == shape else value.new_zeros(shape) for value in values]
    return padded[0] - (1 - t) * padded[1] - t * padded[2]


def interior_maximum(excess: Sequence[float]) -> int:
    """Return the index of the largest excess between the endpoints; of an endpoint if there is nothing between them.

    Args:
        excess: Excess at increasing t, endpoints included.

    Returns:
        The index.
    """
    between = range(1, len(excess) - 1) or range(len(excess))
    return max(between, key=excess.__getitem__)


def _is_zero(value: torch.Tensor) -> bool:
    return value.dim() > 0 and bool((value.abs() < _ROUNDING).all())
