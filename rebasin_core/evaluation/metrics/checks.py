"""Validation of targets for classification metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def require_classes(metric: str, prediction: Tensor, targets: Tensor) -> None:
    """Raise unless predictions are class probabilities ``[N, K]`` and targets are class indices ``[N]``.

    Args:
        metric: Name of the metric, for messages.
        prediction: The averaged prediction.
        targets: The targets.

    Raises:
        InvalidInputError: If the targets are floating-point values, or there is more than one class per example.
    """
    if targets.is_floating_point():
        message = f"the metric {metric!r} needs class indices as targets, got {targets.dtype}; use `squared_error`"
        raise InvalidInputError(message)
    if prediction.dim() != 2 or targets.shape != prediction.shape[:1]:
        message = (
            f"the metric {metric!r} needs probabilities [N, K] and one class index per example [N], got shapes "
            f"{tuple(prediction.shape)} and {tuple(targets.shape)}; use `nll`, which accepts the likelihood's shapes"
        )
        raise InvalidInputError(message)
