"""The negative log likelihood of the predictive distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from typing_extensions import override

from rebasin_core.evaluation.metric import AbstractSampleMetric
from rebasin_core.tensors.statistics import log_mean_exp

if TYPE_CHECKING:
    from torch import Tensor


@final
class NLLMetric(AbstractSampleMetric):
    r"""The predictive loss: the negative log likelihood of the average over samples.

    $$ -\log \frac1S \sum_s p(y \mid x, \theta_s) $$

    It is biased upward by about the relative variance of the likelihood over 2S, which is estimated.

    Examples:
        >>> import torch
        >>> from rebasin_core.evaluation import Predictions
        >>> log_prob = torch.tensor([[0.25], [0.75]]).log()  # two samples, one example
        >>> predictions = Predictions(log_prob, torch.zeros(1, 2), torch.zeros(1), "accuracy")
        >>> round(NLLMetric().estimate(predictions).examples.exp().item(), 4)
        2.0
    """

    label: ClassVar[str] = "loss"
    unit: ClassVar[str] = "nats per example"

    name: Literal["nll"] = "nll"

    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        losses = -log_mean_exp(log_prob, dim=0)
        return losses, 1.0 - torch.exp(log_prob + losses)

    @override
    def _bias(self, effects: Tensor) -> float:
        return (effects.var(dim=0, correction=1).mean() / (2 * len(effects))).item()
