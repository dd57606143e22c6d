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
    r"""Predictive loss: negative log of the likelihood averaged over samples.

    $$ -\log \frac1S \sum_s p(y \mid x, \theta_s) $$

    The estimate is biased upward by about (relative variance of the likelihood) / 2S. Bias and standard error are
    jackknife estimates over samples or antithetic pairs. Both are unreliable if a few samples dominate the mean, that
    is, if the effective number of samples $(\sum_s p_s)^2 / \sum_s p_s^2$ is small.

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
        # An antithetic pair is one independent draw.
        units = log_mean_exp(log_prob.unflatten(0, (-1, 2)), dim=1) if predictions.paired else log_prob
        jackknife = LogMeanJackknife.of(units)
        relative_variance = jackknife.concentration - 1 / len(units)
        values = predictions.weighted(jackknife.values)
        pseudo_values = predictions.weighted(jackknife.pseudo_values)
        return MetricValues(
            values,
            influence(pseudo_values, independent=predictions.independent, contrasts=contrasts),
            bias=(values.mean() - pseudo_values.mean()).item(),
            effective_samples=samples / len(units) / jackknife.concentration,
            # The bias is relative_variance / 2 to first order; the next terms are of the order of its square.
            bias_errors=relative_variance.square(),
        )
