"""The numbers of points and samples with which a barrier is estimated to a requested error."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.errors import ConvergenceWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.curve import LossCurve

FIRST_SAMPLES = 16
"""Number of samples of the first estimate: enough for a standard error with several degrees of freedom."""

FIRST_POINTS = 3
"""Number of points of the grid that is refined around the maximum."""

_MAX_SAMPLES = 8192
# Share of the error from the finite dataset below which a smaller Monte Carlo error is of no use.
_OF_DATA_ERROR = 0.25
# The number of samples is predicted from an estimated error: a margin, and the largest factor of one step.
_MARGIN = 1.2
_LARGEST_FACTOR = 16


@final
@dataclass(frozen=True, slots=True)
class ErrorGoal:
    """A requested error of a barrier.

    Attributes:
        absolute: Largest error, in units of the metric; no limit if None.
        relative: Largest error divided by the barrier; no limit if None.
    """

    absolute: float | None
    relative: float | None

    def of(self, curve: LossCurve) -> float:
        """Return the requested error in units of the metric, for the barrier of a curve."""
        absolute = math.inf if self.absolute is None else self.absolute
        relative = math.inf if self.relative is None else self.relative * abs(curve.interior_excess)
        return min(absolute, relative)

    def reach(self, estimate: Callable[[int, float | None], LossCurve]) -> LossCurve:
        """Estimate a curve with more and more samples, until the error of the height is small enough.

        The error is reached if the Monte Carlo error is at most the requested one, or a quarter of the error from the
        finite dataset. The number of samples is predicted from the last estimate, which is then repeated.

        Args:
            estimate: Returns the curve for a number of samples, and a tolerance for the location of the maximum.

        Returns:
            The last curve.
        """
        samples = FIRST_SAMPLES
        tolerance = None
        while True:
            curve = estimate(samples, tolerance)
            goal = max(self.of(curve), _OF_DATA_ERROR * curve.height_data_stderr)
            error = curve.height_stderr
            if not error > goal and tolerance is not None and tolerance <= goal:
                return curve
            tolerance = goal / 2
            if error > goal:
                factor = min(_MARGIN * (error / goal) ** 2, _LARGEST_FACTOR)
                if samples >= _MAX_SAMPLES:
                    message = (
                        f"the Monte Carlo error of the barrier is {error:.2g} with {samples} samples; the requested "
                        f"error, {goal:.2g}, needs more"
                    )
                    warnings.warn(message, ConvergenceWarning, stacklevel=2)
                    return curve
                samples = min(_MAX_SAMPLES, 2 * math.ceil(samples * factor / 2))
