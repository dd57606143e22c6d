"""A check that metrics of classes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def require_classes(metric: str, targets: Tensor) -> None:
    """Raise unless targets are classes.

    Args:
        metric: The name of the metric.
        targets: The targets.

    Raises:
        InvalidInputError: If they are floating.
    """
    if targets.is_floating_point():
        message = f"{metric!r} is for classes, got numbers as targets; use `squared_error`"
        raise InvalidInputError(message)
