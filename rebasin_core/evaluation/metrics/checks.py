"""A check that metrics of classes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def require_classes(metric: str, prediction: Tensor, targets: Tensor) -> None:
    """Raise unless there is one class for every example, with the probabilities of all classes.

    Args:
        metric: The name of the metric.
        prediction: The averaged probabilities; to pass, ``[N, K]``.
        targets: The targets; to pass, ``[N]`` class numbers.

    Raises:
        InvalidInputError: If they are numbers, or more than one class an example.
    """
    if targets.is_floating_point():
        message = f"{metric!r} is for classes, got numbers as targets; use `squared_error`"
        raise InvalidInputError(message)
    if prediction.dim() != 2 or targets.shape != prediction.shape[:1]:
        message = (
            f"{metric!r} is for one class an example, expected probabilities [N, K] and classes [N], got shapes "
            f"{tuple(prediction.shape)} and {tuple(targets.shape)}; use `nll`, which takes what the likelihood takes"
        )
        raise InvalidInputError(message)
