"""The excess of a loss over the linear interpolation of the endpoint losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.loss import LossEstimate

_ROUNDING = 1e-9


def excess_over_chord(part: str, t: float, at: LossEstimate, first: LossEstimate, last: LossEstimate) -> torch.Tensor:
    """Return a_t - [(1 - t) a_0 + t a_1] for an attribute a of the loss estimates along a path.

    Args:
        part: Name of an attribute of `LossEstimate`: a number or a tensor.
        t: The interpolation coefficient, in [0, 1].
        at: The estimate at t.
        first: The estimate at 0.
        last: The estimate at 1.

    Returns:
        The excess, of the attribute's shape, float64.
    """
    values = [torch.as_tensor(getattr(estimate, part), dtype=torch.float64) for estimate in (at, first, last)]
    # A deterministic endpoint may be run by another method; its influence then has a different length, but is zero.
    shape = next((value.shape for value in values if not _is_zero(value)), values[0].shape)
    padded = [value if value.shape == shape else value.new_zeros(shape) for value in values]
    return padded[0] - (1 - t) * padded[1] - t * padded[2]


def interior_maximum(excess: Sequence[float]) -> int:
    """Return the index of the largest excess at the interior points; over all points if there are none.

    Args:
        excess: The excess at increasing t, endpoints included.

    Returns:
        The index.
    """
    between = range(1, len(excess) - 1) or range(len(excess))
    return max(between, key=excess.__getitem__)


def _is_zero(value: torch.Tensor) -> bool:
    return value.dim() > 0 and bool((value.abs() < _ROUNDING).all())
