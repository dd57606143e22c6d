"""The points of a path at which losses are estimated: an equally spaced grid, refined around the maximum."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field

from rebasin_core.errors import ConvergenceWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.evaluation.loss import LossEstimate

# Points closer to each other than this are not worth an evaluation.
_MIN_DISTANCE = 1e-3
_MAX_ADDED = 20
_MIN_POINTS = 3


def _require_odd(num_points: int) -> int:
    if num_points % 2 == 0:
        message = f"expected an odd number of points, to include the midpoint, got {num_points!r}"
        raise ValueError(message)
    return num_points


NumPoints: TypeAlias = Annotated[int, Field(ge=_MIN_POINTS), AfterValidator(_require_odd)]
"""Number of points on a path, endpoints included: odd, at least 3."""


def path_grid(num_points: int) -> Sequence[float]:
    """Return equally spaced values of t from 0 to 1.

    Args:
        num_points: Number of values, odd and at least 3.

    Returns:
        The values.
    """
    return [index / (num_points - 1) for index in range(num_points)]


def refine_maximum(
    evaluate: Callable[[float], LossEstimate], grid: Sequence[float], tolerance: float | None
) -> tuple[list[float], list[LossEstimate]]:
    """Estimate the loss on a grid and, given a tolerance, at further points that locate the maximum of the excess.

    A parabola through the largest excess and its two neighbors predicts the maximum, and the loss is estimated there.
    This is repeated until both the last increase of the excess and the predicted increase are within the tolerance.

    Args:
        evaluate: Returns the loss estimate at t.
        grid: Values of t, increasing from 0 to 1.
        tolerance: Maximum difference between the height and the predicted maximum, in units of the loss; None to use
            the grid only.

    Returns:
        Values of t, increasing, and the loss estimate at each.
    """
    estimates = {t: evaluate(t) for t in grid}
    if tolerance is None:
        return list(estimates), list(estimates.values())
    for _ in range(_MAX_ADDED):
        t, predicted = _parabola_maximum(estimates)
        highest = max(_excess(estimates).values())
        if t is None or predicted - highest <= tolerance:
            break
        estimates[t] = evaluate(t)
        reached = _excess(estimates)[t]
        if reached - highest <= tolerance and predicted - reached <= tolerance:
            break
    else:
        message = f"the barrier height did not converge to within {tolerance:g} after {_MAX_ADDED} more points"
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    order = sorted(estimates)
    return order, [estimates[t] for t in order]


def _excess(estimates: Mapping[float, LossEstimate]) -> dict[float, float]:
    """Return the excess of each loss over the interpolated endpoint losses, by t."""
    first = estimates[0.0].loss
    last = estimates[1.0].loss
    return {t: estimate.loss - (1 - t) * first - t * last for t, estimate in estimates.items()}


def _parabola_maximum(estimates: Mapping[float, LossEstimate]) -> tuple[float | None, float]:
    """Return the t of the maximum of a parabola, and the maximum; None for t if there is no other point to evaluate."""
    excess = _excess(estimates)
    order = sorted(excess)
    top = max(range(1, len(order) - 1), key=lambda i: excess[order[i]])
    a, b, c = order[top - 1 : top + 2]
    left = (excess[b] - excess[a]) / (b - a)
    right = (excess[c] - excess[b]) / (c - b)
    curvature = (right - left) / (c - a)
    if curvature >= 0:  # convex: no maximum between a and c
        return None, excess[b]
    t = (a + b) / 2 - left / (2 * curvature)
    t = min(max(t, a + _MIN_DISTANCE), c - _MIN_DISTANCE)
    if abs(t - b) < _MIN_DISTANCE:  # the maximum is at an evaluated point
        return None, excess[b]
    return t, excess[a] + left * (t - a) + curvature * (t - a) * (t - b)
