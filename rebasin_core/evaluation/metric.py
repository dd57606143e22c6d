"""The interface of metrics: losses of a distribution over networks, with Monte Carlo standard errors."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.jackknife import influence
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions

_NUM_GROUPS, _NUM_RESAMPLES = 16, 64


@final
@dataclass(frozen=True, slots=True)
class MetricValues:
    """Values of a metric on a dataset.

    Attributes:
        examples: ``[N]``: the metric of each example. Their mean is the metric of the dataset.
        influence: ``[n]``: values whose standard error is the Monte Carlo standard error of the metric, such as one for
            each of n independent samples, antithetic pairs or groups of samples.
        bias: Estimated upward bias due to the finite number of samples; 0 if the metric is unbiased.
        effective_samples: ``[N]``: effective number of samples of each value, if samples have different weights; else
            None.
        bias_errors: ``[N]``: order of magnitude of the error of `bias` for each example; None if it is exact.
    """

    examples: Tensor
    influence: Tensor
    bias: float = 0.0
    effective_samples: Tensor | None = None
    bias_errors: Tensor | None = None


class Metric(Strategy):
    r"""Loss of a distribution over networks: a mean over examples, estimated from S posterior samples.

    Derive from `AbstractSampleMetric` for a function of the likelihoods of a target under the samples, and from
    `AbstractPredictionMetric` for a function of the averaged prediction.

    Laws:
        - *Per example*: the value of an example does not depend on the other examples.
        - *Exchangeable*: values do not change if the samples are reordered, or all are repeated equally often.
        - *Errors stated*: the Monte Carlo standard error is the standard deviation over independent repetitions.
        - *Bias stated*: the stated bias is twice the decrease of the mean from S to 2S samples.
        - *No side effects*: predictions are not changed.
    """

    family: ClassVar[str] = "metric"

    label: ClassVar[str]
    """Name of the metric in figures, such as ``Brier score``."""

    unit: ClassVar[str] = ""
    """Unit of the metric in figures; empty if it has none."""

    @property
    def title(self) -> str:
        """Name of the metric in figures and tables: `label`, unless an instance has its own."""
        return self.label

    @property
    def is_negated(self) -> bool:
        """Whether the values are those of a metric for which higher is better, multiplied by -1."""
        return False

    num_groups: ClassVar[int] = 0
    """Number of groups of samples whose averaged predictions the metric needs; 0 if it needs none."""

    @abstractmethod
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        """Estimate the metric and its Monte Carlo error from predictions.

        Args:
            predictions: Predictions, as from `evaluation.predict`.
            contrasts: If noise is independent across examples, the number of contrasts of each example's samples from
                which the Monte Carlo error is estimated; chosen automatically if None.

        Returns:
            The values of all examples, with influence values and bias.

        Raises:
            InvalidInputError: If the predictions lack groups or targets that the metric needs, or the metric is not
                defined for such targets.
        """


class AbstractSampleMetric(Metric):
    """Function of the log likelihoods of a target under all samples; error by the delta method, without bias."""

    @abstractmethod
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return the metric of each example, and the influence of each sample on it.

        Args:
            log_prob: Log likelihoods ``[S, N]``, in nats.

        Returns:
            Values ``[N]``, and influences ``[S, N]``: the derivative of the value with respect to the weight of each
            sample, up to a constant per example.
        """

    @final
    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        examples, effects = map(predictions.weighted, self._values(predictions.log_prob))
        # An antithetic pair is one independent draw.
        units = effects.unflatten(0, (-1, 2)).mean(1) if predictions.paired else effects
        return MetricValues(examples, influence(units, independent=predictions.independent, contrasts=contrasts))


class AbstractPredictionMetric(Metric):
    """Metric that is a function of the averaged prediction; error and bias are estimated by resampling groups."""

    num_groups: ClassVar[int] = _NUM_GROUPS

    is_smooth: ClassVar[bool] = False
    """Whether the metric is twice differentiable in the prediction. If so, error and bias are estimated by the
    jackknife over groups of samples, which is more accurate; if not, by the bootstrap."""

    @abstractmethod
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each example.

        Args:
            prediction: ``[N, K]``: averaged class probabilities or means.
            targets: ``[N]`` class indices, or ``[N, K]`` regression targets.

        Returns:
            ``[N]``, in float64.

        Raises:
            InvalidInputError: If the metric is not defined for such targets.
        """

    @final
    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        groups, targets = predictions.groups, predictions.targets
        if groups is None or targets is None:
            message = f"the metric {self.name!r} needs predictions of groups of samples; pass `groups` to `predict`"
            raise InvalidInputError(message)
        score = _Weighted(self._score, predictions, targets)
        values = score(predictions.prediction)
        if len(groups) == 1:
            return MetricValues(values, values.new_zeros(1))
        if not self.is_smooth:
            return MetricValues(values, *bootstrap(groups, score))
        pseudo_values = _pseudo_values(groups, score)
        bias = (score(groups.mean(0)).mean() - pseudo_values.mean()).item()
        effects = influence(pseudo_values, independent=predictions.independent, contrasts=contrasts)
        return MetricValues(values, effects, bias)


@final
class _Weighted:
    """The metric of each example for a prediction, multiplied by the weights of the elements."""

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor], predictions: Predictions, targets: Tensor) -> None:
        self._score = score
        self._predictions = predictions
        self._targets = targets

    def __call__(self, prediction: Tensor) -> Tensor:
        """Return ``[N]``."""
        return self._predictions.weighted(self._score(prediction, self._targets))


def _pseudo_values(groups: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the jackknife pseudo-values ``[G, N]``."""
    count = len(groups)
    mean = groups.mean(0)
    # mean + (mean - group) / (G - 1) is the mean of the other groups.
    without = [score(mean + (mean - group) / (count - 1)) for group in groups]
    return count * score(mean) - (count - 1) * torch.stack(without)


def bootstrap(groups: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    """Return bootstrap influence values and the bias of a metric.

    Args:
        groups: ``[G, N, K]``: averaged predictions of groups of samples.
        score: Function of a prediction ``[N, K]`` that returns values whose mean is the metric.

    Returns:
        Influence values ``[64]``, and the bias.
    """
    count = len(groups)
    # The same resamples at each t: errors along a path remain paired.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(count, (_NUM_RESAMPLES, count), generator=generator).to(groups.device)
    values = torch.stack([score(groups[rows].mean(0)).mean() for rows in chosen])
    # The bootstrap underestimates the variance of a mean of n groups by the factor (n - 1) / n.
    scale = count / (count - 1)
    bias = (values.mean() - score(groups.mean(0)).mean()).item() * scale
    # Scaled: the standard error of these values is the standard deviation of the resampled values, corrected.
    return (values - values.mean()) * math.sqrt(_NUM_RESAMPLES * scale), bias
