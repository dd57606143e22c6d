"""The Gibbs loss: the mean negative log likelihood of single networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.evaluation.metric import AbstractSampleMetric

if TYPE_CHECKING:
    from torch import Tensor


@final
class GibbsMetric(AbstractSampleMetric):
    r"""Gibbs loss: mean over samples of the negative log likelihood. Unbiased, and at least the predictive loss.

    $$ -\frac1S \sum_s \log p(y \mid x, \theta_s) $$

    Examples:
        >>> import torch
        >>> from rebasin_core.evaluation import Predictions
        >>> log_prob = torch.tensor([[-1.0], [-3.0]])  # two samples, one example
        >>> predictions = Predictions(log_prob, torch.zeros(1, 2), torch.zeros(1), "accuracy")
        >>> GibbsMetric().estimate(predictions).examples.item()
        2.0
    """

    label: ClassVar[str] = "Gibbs loss"
    unit: ClassVar[str] = "nats per example"

    name: Literal["gibbs"] = "gibbs"

    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return -log_prob.mean(0), -log_prob
