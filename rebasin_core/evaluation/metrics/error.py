"""The error rate of the averaged prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.evaluation.metric import AbstractPredictionMetric
from rebasin_core.evaluation.metrics.checks import require_classes

if TYPE_CHECKING:
    from torch import Tensor


@final
class ErrorMetric(AbstractPredictionMetric):
    """Error rate: fraction of examples whose most probable class under the averaged prediction is wrong.

    Examples:
        >>> import torch
        >>> from rebasin_core.evaluation import Predictions
        >>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> targets, zeros = torch.tensor([0, 1]), torch.zeros(1, 2)
        >>> predictions = Predictions(zeros, p, targets, "accuracy", targets=targets, groups=p.unsqueeze(0))
        >>> ErrorMetric().estimate(predictions).examples.tolist()
        [0.0, 1.0]
    """

    label: ClassVar[str] = "error rate"

    name: Literal["error"] = "error"

    @override
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        require_classes(self.name, prediction, targets)
        return (prediction.argmax(-1) != targets).double()
