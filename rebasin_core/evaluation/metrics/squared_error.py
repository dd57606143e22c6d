"""The squared error of the averaged prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.metric import AbstractPredictionMetric

if TYPE_CHECKING:
    from torch import Tensor


@final
class SquaredErrorMetric(AbstractPredictionMetric):
    r"""Squared error of the averaged prediction: mean over the entries of a target, in squared units of the targets.

    Examples:
        >>> import torch
        >>> from rebasin_core.evaluation import Predictions
        >>> mean, targets, zeros = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.zeros(1, 1)
        >>> predictions = Predictions(zeros, mean, zeros[0], "mse", targets=targets, groups=mean.unsqueeze(0))
        >>> SquaredErrorMetric().estimate(predictions).examples.tolist()
        [4.0]
    """

    is_smooth: ClassVar[bool] = True
    label: ClassVar[str] = "squared error"

    name: Literal["squared_error"] = "squared_error"

    @override
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        if prediction.shape != targets.shape:
            message = (
                f"`squared_error` needs predictions and targets of the same shape, got {list(prediction.shape)} and "
                f"{list(targets.shape)}; use `brier` for classification"
            )
            raise InvalidInputError(message)
        return (prediction - targets).double().square().flatten(1).mean(1)
