"""The interface of metrics: losses of a distribution over networks, with their Monte Carlo errors."""

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
    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions

_GROUPS, _RESAMPLES = 16, 64


@final
@dataclass(frozen=True, slots=True)
class MetricValues:
    """A metric on a data set.

    Attributes:
        examples: ``[N]``: the metric of every example. Their mean is the metric of the data set.
        influence: Numbers, one for each independent sample, pair or group of samples, whose mean has the Monte Carlo
            standard error of the metric.
        bias: Estimate of the upward bias from the finite number of samples; 0 if there is none.
        effective_samples: ``[N]``: the number of samples that an example's value rests on, where samples weigh
            differently; None where they do not.
        bias_errors: ``[N]``: of every example, the order of magnitude of what the estimated bias leaves out; None where
            nothing is left out.
    """

    examples: Tensor
    influence: Tensor
    bias: float = 0.0
    effective_samples: Tensor | None = None
    bias_errors: Tensor | None = None


class Metric(Strategy):
    r"""A loss of a distribution over networks: a mean over examples, estimated from S posterior samples.

    Derive from `AbstractSampleMetric` for a function of the likelihoods of a target under the samples, and from
    `AbstractPredictionMetric` for a function of the averaged prediction.

    Laws:
        - *Per example*: the value of an example does not depend on the other examples.
        - *Exchangeable*: neither the order of the samples nor repeating all of them changes a value.
        - *Errors stated*: the Monte Carlo standard error is the standard deviation over independent repetitions.
        - *Bias stated*: the stated bias is twice what the mean falls by from S samples to 2S.
        - *Inputs untouched*: predictions are not changed.
    """

    family: ClassVar[str] = "metric"

    label: ClassVar[str]
    """The name of the quantity in figures: ``Brier score``."""

    unit: ClassVar[str] = ""
    """Its unit in figures; empty for a number without one."""

    num_groups: ClassVar[int] = 0
    """Number of groups of samples whose averaged predictions the metric needs; 0 for none."""

    @abstractmethod
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        """Return the metric of predictions with its Monte Carlo error.

        Args:
            predictions: As from `evaluation.predict`.
            contrasts: If noise is independent across examples: number of contrasts of each example's samples from
                which the Monte Carlo error is estimated; as many as suffice if not given.

        Returns:
            The values of all examples, and their error.

        Raises:
            InvalidInputError: If the predictions do not have what the metric needs, or it is not for such targets.
        """


class AbstractSampleMetric(Metric):
    """Function of the log likelihoods of a target under all samples, with an error by the delta method and no bias."""

    @abstractmethod
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return the metric of every example, and the effect of every sample on it.

        Args:
            log_prob: ``[S, N]``, in nats.

        Returns:
            Values ``[N]``, and effects ``[S, N]`` with mean zero over samples: the derivative of the value with respect
            to the weight of each sample, which is 1 / S.
        """

    @final
    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        examples, effects = self._values(predictions.log_prob)
        # Two samples of opposite noise are one independent draw.
        drawn = effects.unflatten(0, (-1, 2)).mean(1) if predictions.paired else effects
        return MetricValues(examples, influence(drawn, independent=predictions.independent, contrasts=contrasts))


class AbstractPredictionMetric(Metric):
    """A function of the averaged prediction, whose error and bias are estimated by resampling groups of samples."""

    num_groups: ClassVar[int] = _GROUPS

    is_smooth: ClassVar[bool] = False
    """Whether the metric has two derivatives in the prediction. Groups are then left out one after the other (the
    jackknife), which knows error and bias better; else they are drawn with replacement (the bootstrap)."""

    @abstractmethod
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of every example.

        Args:
            prediction: ``[N, K]``: averaged probabilities or means.
            targets: ``[N]`` classes, or ``[N, K]`` numbers.

        Returns:
            ``[N]``, in float64.

        Raises:
            InvalidInputError: If the metric is not for such targets.
        """

    @final
    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        groups, targets = predictions.groups, predictions.targets
        if groups is None or targets is None:
            message = f"the metric {self.name!r} needs predictions of groups of samples; set `groups` of `predict`"
            raise InvalidInputError(message)
        whole = self._score(predictions.prediction, targets)
        if len(groups) == 1:
            return MetricValues(whole, whole.new_zeros(1))
        if not self.is_smooth:
            return MetricValues(whole, *self._resampled(groups, targets))
        pseudo_values = self._left_out(groups, targets)
        bias = (self._score(groups.mean(0), targets).mean() - pseudo_values.mean()).item()
        numbers = influence(pseudo_values, independent=predictions.independent, contrasts=contrasts)
        return MetricValues(whole, numbers, bias)

    def _left_out(self, groups: Tensor, targets: Tensor) -> Tensor:
        """Return the pseudo-values of the jackknife: ``[G, N]``."""
        count = len(groups)
        mean = groups.mean(0)
        # The mean of the others.
        without = (self._score(mean + (mean - group) / (count - 1), targets) for group in groups)
        return count * self._score(mean, targets) - (count - 1) * torch.stack(list(without))

    def _resampled(self, groups: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """Return numbers with the error of the metric, and its bias, by the bootstrap."""
        count = len(groups)
        # The same resamples at every t, so that errors along a path stay paired.
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(count, (_RESAMPLES, count), generator=generator).to(groups.device)
        values = torch.stack([self._score(groups[rows].mean(0), targets).mean() for rows in chosen])
        # A resample of n groups has n - 1 of n of the variance.
        scale = count / (count - 1)
        bias = (values.mean() - self._score(groups.mean(0), targets).mean()).item() * scale
        # Scaled so that the standard error of their mean is the standard deviation of the resampled values.
        return (values - values.mean()) * math.sqrt(_RESAMPLES * scale), bias
