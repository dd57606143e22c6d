"""Where on a path the loss is estimated: at equal distances, and then closer around the highest place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rebasin_core.evaluation.loss import LossEstimate

# Places nearer to each other than this tell nothing new.
_LEAST_DISTANCE = 1e-3
_MOST_ADDED = 20


def require_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is not positive.

    Args:
        tolerance: In units of the loss, or None.

    Raises:
        InvalidInputError: If it is not a positive number.
    """
    if tolerance is not None and not (tolerance > 0 and math.isfinite(tolerance)):
        message = f"expected a positive `tolerance` in units of the loss, or None, got {tolerance!r}"
        raise InvalidInputError(message)


def located(
    evaluate: Callable[[float], LossEstimate], places: Sequence[float], tolerance: float | None
) -> tuple[list[float], list[LossEstimate]]:
    """Return losses at given places and, with a tolerance, at more of them until the highest is found.

    A parabola through the highest place and its neighbours says where the loss should be highest; it is estimated
    there, until that gains no more than the tolerance, and no more was promised.

    Args:
        evaluate: Gives the loss at a place.
        places: Increasing, from 0 to 1.
        tolerance: How far the height may lie below the true maximum, in units of the loss; None for no more places.

    Returns:
        Places in order, and the loss at each.
    """
    found = {t: evaluate(t) for t in places}
    if tolerance is None:
        return list(found), list(found.values())
    for _ in range(_MOST_ADDED):
        t, promised = _promising(found)
        highest = max(_heights(found).values())
        if t is None or promised - highest <= tolerance:
            break
        found[t] = evaluate(t)
        reached = _heights(found)[t]
        if reached - highest <= tolerance and promised - reached <= tolerance:
            break
    order = sorted(found)
    return order, [found[t] for t in order]


def _heights(found: dict[float, LossEstimate]) -> dict[float, float]:
    start, end = found[0.0].loss, found[1.0].loss
    return {t: estimate.loss - (1 - t) * start - t * end for t, estimate in found.items()}


def _promising(found: dict[float, LossEstimate]) -> tuple[float | None, float]:
    """Return the place where a parabola has its top, and the height it has there; None if it is known already."""
    heights = _heights(found)
    order = sorted(heights)
    top = max(range(1, len(order) - 1), key=lambda i: heights[order[i]])
    (a, b, c), (u, v, w) = ((order[top + k] for k in (-1, 0, 1)), (heights[order[top + k]] for k in (-1, 0, 1)))
    left, right = (v - u) / (b - a), (w - v) / (c - b)
    curvature = (right - left) / (c - a)
    if curvature >= 0:  # no top between them
        return None, v
    place = (a + b) / 2 - left / (2 * curvature)
    place = min(max(place, a + _LEAST_DISTANCE), c - _LEAST_DISTANCE)
    if abs(place - b) < _LEAST_DISTANCE:
        # The parabola has its top where the loss is known: look into the wider side, if it is wide.
        place = (a + b) / 2 if b - a > c - b else (b + c) / 2
    return place, u + left * (place - a) + curvature * (place - a) * (place - b)
