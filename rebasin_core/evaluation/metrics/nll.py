"""The negative log likelihood of the predictive distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.evaluation.jackknife import LogMeanJackknife, influence
from rebasin_core.evaluation.metric import Metric, MetricValues
from rebasin_core.tensors.statistics import log_mean_exp

if TYPE_CHECKING:
    from rebasin_core.evaluation.predictive import Predictions


@final
class NLLMetric(Metric):
    r"""The predictive loss: the negative log likelihood of the average over samples.

    $$ -\log \frac1S \sum_s p(y \mid x, \theta_s) $$

    It is biased upward by about the relative variance of the likelihood over 2S. Bias and error are estimated by
    leaving out one sample (or antithetic pair) after the other (the jackknife). Both are wrong where a few samples make
    up the mean: the effective number of samples of each example, $(\sum_s p_s)^2 / \sum_s p_s^2$, tells.

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
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        log_prob = predictions.log_prob
        samples = len(log_prob)
        # Two samples of opposite noise are one independent draw.
        drawn = log_mean_exp(log_prob.unflatten(0, (-1, 2)), dim=1) if predictions.paired else log_prob
        found = LogMeanJackknife.of(drawn)
        spread = found.concentration - 1 / len(drawn)
        return MetricValues(
            found.values,
            influence(found.pseudo_values, independent=predictions.independent, contrasts=contrasts),
            bias=(found.values.mean() - found.pseudo_values.mean()).item(),
            effective_samples=samples / len(drawn) / found.concentration,
            # The bias is spread / 2 to first order; its next terms are of the order of the square.
            bias_errors=spread.square(),
        )
