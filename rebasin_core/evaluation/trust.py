"""When a stated Monte Carlo error can be trusted, and the interval that it makes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.stats import t as student

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from torch import Tensor

# Shares of the stated error, and numbers of draws, by the tables of coverage in docs/results/coverage.md. Along a path,
# much of what a bias leaves out is the same at all points, and goes out with the endpoints.
LOSS_SHARE, EXCESS_SHARE = 0.1, 0.2
_LEAST_DRAWS, _MOST_SKEWED = 8, 0.3
# Where a few posterior samples make up the loss of a few examples, an excess is skewed, and its standard error is small
# where the excess is. With noise shared by all examples this shows in the skewness; with independent noise in the bias.
_LARGEST_BIAS = 0.3
# Smaller errors are rounding.
_ROUNDING = 1e-7


def degrees_of_freedom(influence: Tensor, *, independent: bool) -> float:
    """Return the degrees of freedom of a standard error.

    Args:
        influence: The numbers that it is estimated from.
        independent: Whether they belong to examples with noise of their own, which differ in size; their number is
            then corrected for it (Satterthwaite), from their fourth moment.

    Returns:
        At least 1.
    """
    count = len(influence)
    if not independent or count < 2 or not influence.any():
        return max(1.0, count - 1.0)
    squares = influence.double().square()
    return max(1.0, min(count - 1.0, 3 * squares.sum().item() ** 2 / squares.square().sum().item()))


def interval(value: float, stderr: float, degrees: float, level: float) -> tuple[float, float]:
    """Return the interval of Student's t distribution around a value.

    Args:
        value: The value, without bias.
        stderr: Its standard error.
        degrees: Degrees of freedom of the standard error.
        level: The probability that the interval is to cover, in (0, 1).

    Returns:
        Both ends; NaN if the standard error is.

    Raises:
        InvalidInputError: If the level is not in (0, 1).
    """
    if not 0 < level < 1:
        message = f"expected a level in (0, 1), such as 0.95, got {level!r}"
        raise InvalidInputError(message)
    half = float(student.ppf((1 + level) / 2, degrees)) * stderr
    return value - half, value + half


def why_untrusted(
    influence: Tensor, left_out: float, *, independent: bool, share: float = LOSS_SHARE, bias: float = 0.0
) -> str | None:
    """Return why a standard error cannot be trusted; None if it can, or there is none.

    Args:
        influence: The numbers that it is estimated from.
        left_out: What the stated bias leaves out, in order of magnitude (`MetricValues.bias_errors`).
        independent: Whether the numbers belong to examples with noise of their own.
        share: The largest share of the standard error that the bias may leave out.
        bias: The stated bias of an excess; 0 for a loss.

    Returns:
        A clause.
    """
    count = len(influence)
    stderr = mean_stderr(influence).item()
    if count < 2 or max(stderr, left_out) < _ROUNDING:
        return None
    if left_out > share * stderr:
        return (
            "log likelihoods spread too widely between samples, so that a few samples make up the loss of some "
            "examples; take more samples"
        )
    if independent:
        return _why_bias_is_large(bias, stderr)
    return _why_few_draws(influence)


def _why_bias_is_large(bias: float, stderr: float) -> str | None:
    if abs(bias) <= _LARGEST_BIAS * stderr:
        return None
    return (
        f"the bias of {bias:.2g}, which is known to first order, is not small compared with the standard error of "
        f"{stderr:.2g}; take more samples"
    )


def _why_few_draws(influence: Tensor) -> str | None:
    if len(influence) < _LEAST_DRAWS:
        return (
            f"they are estimated from {len(influence)} independent draws, so that intervals of two errors cover too "
            "little; take more samples, or the interval of Student's t distribution"
        )
    if _skewness(influence) > _MOST_SKEWED:
        return "a few of the samples make up most of the error; take more samples"
    return None


def _skewness(influence: Tensor) -> float:
    """Return the skewness over the root of the number of draws: from 0 to 1, where one draw makes up all."""
    centred = (influence - influence.mean()).double()
    third: float = abs(centred.pow(3).sum().item())
    second: float = centred.square().sum().item()
    return third / math.sqrt(second) ** 3
