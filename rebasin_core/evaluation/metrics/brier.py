"""The Brier score of the averaged prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from torch.nn.functional import one_hot
from typing_extensions import override

from rebasin_core.evaluation.metric import AbstractPredictionMetric
from rebasin_core.evaluation.metrics.checks import require_classes

if TYPE_CHECKING:
    from torch import Tensor


@final
class BrierMetric(AbstractPredictionMetric):
    r"""Brier score $\sum_k (p_k - 1[y = k])^2$ of the averaged prediction, in [0, 2].

    References:
        G. Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.

    Examples:
        >>> import torch
        >>> from rebasin_core.evaluation import Predictions
        >>> p, targets, zeros = torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.zeros(1, 1)
        >>> predictions = Predictions(zeros, p, targets, "accuracy", targets=targets, groups=p.unsqueeze(0))
        >>> BrierMetric().estimate(predictions).examples.tolist()
        [0.5]
    """

    is_smooth: ClassVar[bool] = True
    label: ClassVar[str] = "Brier score"

    name: Literal["brier"] = "brier"

    @override
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        require_classes(self.name, prediction, targets)
        truth = one_hot(targets, prediction.shape[-1]).double()
        return (prediction.double() - truth).square().sum(-1)
