"""The points of a path at which losses are estimated: an equally spaced grid, refined around the maximum."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field

from rebasin_core.errors import ConvergenceWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.evaluation.loss import LossEstimate

# Points nearer to each other than this are not worth an evaluation.
_LEAST_DISTANCE = 1e-3
_MOST_ADDED = 20
_LEAST_POINTS = 3


def _require_odd(num_points: int) -> int:
    if num_points % 2 == 0:
        message = f"expected an odd number of points, so that the midpoint is among them, got {num_points!r}"
        raise ValueError(message)
    return num_points


NumPoints: TypeAlias = Annotated[int, Field(ge=_LEAST_POINTS), AfterValidator(_require_odd)]
"""A number of points on a path, endpoints included: odd, at least 3."""


def path_grid(num_points: int) -> Sequence[float]:
    """Return equally spaced values of t from 0 to 1.

    Args:
        num_points: Their number, odd and at least 3.

    Returns:
        The values.
    """
    return [index / (num_points - 1) for index in range(num_points)]


def refine_maximum(
    evaluate: Callable[[float], LossEstimate], grid: Sequence[float], tolerance: float | None
) -> tuple[list[float], list[LossEstimate]]:
    """Return losses on a grid and, with a tolerance, at further points until the maximum of the excess is located.

    A parabola through the highest point and its neighbors predicts where the excess is largest. The loss is estimated
    there, until this gains no more than the tolerance and the prediction promises no more.

    Args:
        evaluate: Estimates the loss at t.
        grid: Values of t, increasing from 0 to 1.
        tolerance: By how much the height may fall short of the true maximum, in units of the loss; None for no further
            points.

    Returns:
        Values of t in order, and the loss at each.
    """
    found = {t: evaluate(t) for t in grid}
    if tolerance is None:
        return list(found), list(found.values())
    for _ in range(_MOST_ADDED):
        t, promised = _promising(found)
        highest = max(_excess(found).values())
        if t is None or promised - highest <= tolerance:
            break
        found[t] = evaluate(t)
        reached = _excess(found)[t]
        if reached - highest <= tolerance and promised - reached <= tolerance:
            break
    else:
        message = f"the height of the barrier is not known to within {tolerance:g} after {_MOST_ADDED} more points"
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    order = sorted(found)
    return order, [found[t] for t in order]


def _excess(found: Mapping[float, LossEstimate]) -> dict[float, float]:
    """Return the excess of every loss over the interpolated endpoint losses, by t."""
    start = found[0.0].loss
    end = found[1.0].loss
    return {t: estimate.loss - (1 - t) * start - t * end for t, estimate in found.items()}


def _promising(found: Mapping[float, LossEstimate]) -> tuple[float | None, float]:
    """Return the t at which a parabola has its maximum, and that maximum; None for t if it is known already."""
    excess = _excess(found)
    order = sorted(excess)
    top = max(range(1, len(order) - 1), key=lambda i: excess[order[i]])
    a, b, c = order[top - 1 : top + 2]
    left = (excess[b] - excess[a]) / (b - a)
    right = (excess[c] - excess[b]) / (c - b)
    curvature = (right - left) / (c - a)
    if curvature >= 0:  # no maximum between them
        return None, excess[b]
    t = (a + b) / 2 - left / (2 * curvature)
    t = min(max(t, a + _LEAST_DISTANCE), c - _LEAST_DISTANCE)
    if abs(t - b) < _LEAST_DISTANCE:
        # The parabola has its maximum at a known point: try the wider side, if it is wide enough.
        t = (a + b) / 2 if b - a > c - b else (b + c) / 2
    return t, excess[a] + left * (t - a) + curvature * (t - a) * (t - b)
