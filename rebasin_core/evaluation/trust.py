"""Reliability checks of stated Monte Carlo errors, and confidence intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from torch import Tensor

# Thresholds were chosen by coverage, see docs/results/coverage.md. That of an excess is larger: along a path, much of
# the residual bias is the same at all points, and cancels.
LOSS_SHARE, EXCESS_SHARE = 0.1, 0.2
_MIN_DRAWS, _MAX_SKEWNESS = 8, 0.3
# If a few samples dominate the loss of a few examples, the excess is skewed, and small values have small standard
# errors. With noise shared by all examples the skewness shows this. With independent noise, the bias and few degrees of
# freedom show it: the sum over many examples of similar variance is nearly normal.
_MAX_BIAS, _MANY_DEGREES = 0.3, 150
# Smaller errors are rounding errors.
_ROUNDING = 1e-7


def degrees_of_freedom(influence: Tensor, *, independent: bool) -> float:
    """Return the degrees of freedom of a standard error.

    Args:
        influence: ``[n]``: the influence values from which it is estimated.
        independent: Whether noise is independent across examples. The values then have different variances, and the
            degrees of freedom are estimated from their fourth moment (Satterthwaite).

    Returns:
        Degrees of freedom, in [1, n - 1] for n >= 2.

    References:
        F. E. Satterthwaite (1946), "An approximate distribution of estimates of variance components", Biometrics
        Bulletin 2(6).
    """
    count = len(influence)
    if not independent or count < 2 or not influence.any():
        return max(1.0, count - 1.0)
    squares = influence.double().square()
    return max(1.0, min(count - 1.0, 3 * squares.sum().item() ** 2 / squares.square().sum().item()))


def interval(value: float, stderr: float, degrees: float, level: float) -> tuple[float, float]:
    """Return Student's t confidence interval of a value.

    Args:
        value: The value, corrected for its bias.
        stderr: Standard error of the value.
        degrees: Degrees of freedom of the standard error.
        level: Nominal coverage probability, in (0, 1).

    Returns:
        Lower and upper limit; NaN if the standard error is NaN.

    Raises:
        InvalidInputError: If the level is not in (0, 1).
    """
    if not 0 < level < 1:
        message = f"expected a level in (0, 1), such as 0.95, got {level!r}"
        raise InvalidInputError(message)
    from scipy.special import stdtrit  # ruff: ignore[import-outside-top-level] - as long as a third of this package

    half = float(stdtrit(degrees, (1 + level) / 2)) * stderr
    return value - half, value + half


def why_untrusted(
    influence: Tensor, residual_bias: float, *, independent: bool, share: float = LOSS_SHARE, bias: float = 0.0
) -> str | None:
    """Return the reason why a standard error cannot be trusted; None if there is no reason or no standard error.

    Args:
        influence: ``[n]``: the influence values from which it is estimated.
        residual_bias: Order of magnitude of the error of the stated bias (`MetricValues.bias_errors`).
        independent: Whether noise is independent across examples.
        share: Largest accepted ratio of the residual bias to the standard error.
        bias: Stated bias of an excess; 0 for a loss.

    Returns:
        A clause for a message, or None.
    """
    count = len(influence)
    stderr = mean_stderr(influence).item()
    if count < 2 or max(stderr, residual_bias) < _ROUNDING:
        return None
    if residual_bias > share * stderr:
        return (
            "log likelihoods vary too much between samples, and a few samples dominate the loss of some examples; use "
            "more samples"
        )
    if independent:
        return _why_skewed(influence, bias, stderr)
    return _why_few_draws(influence)


def _why_skewed(influence: Tensor, bias: float, stderr: float) -> str | None:
    if abs(bias) <= _MAX_BIAS * stderr or degrees_of_freedom(influence, independent=True) >= _MANY_DEGREES:
        return None
    return (
        f"a few examples dominate it, and the bias of {bias:.2g} is not small compared with the standard error of "
        f"{stderr:.2g}; use more samples"
    )


def _why_few_draws(influence: Tensor) -> str | None:
    if len(influence) < _MIN_DRAWS:
        return (
            f"they are estimated from {len(influence)} independent draws only, and intervals of two standard errors "
            "cover too little; use more samples, or `interval` (Student's t)"
        )
    if _skewness(influence) > _MAX_SKEWNESS:
        return "a few samples contribute most of the error; use more samples"
    return None


def _skewness(influence: Tensor) -> float:
    """Return |skewness| / sqrt(n): from 0 to 1, where 1 means that one draw contributes all of the variance."""
    centered = (influence - influence.mean()).double()
    third: float = abs(centered.pow(3).sum().item())
    second: float = centered.square().sum().item()
    return third / math.sqrt(second) ** 3
