"""The interface of metrics: losses of a distribution over networks, with their Monte Carlo errors."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions

_GROUPS, _RESAMPLES = 16, 64
# 256 numbers estimate a standard deviation to within 4 per cent.
_ENOUGH = 256


@final
@dataclass(frozen=True, slots=True)
class MetricValues:
    """A metric on a data set.

    Attributes:
        examples: ``[N]``: the metric of every example. Their mean is the metric of the data set.
        influence: Numbers, one for each sample, pair of samples or resample, whose mean has the Monte Carlo standard
            error of the metric.
        bias: First-order estimate of the upward bias from the finite number of samples; 0 if the metric gives none.
    """

    examples: Tensor
    influence: Tensor
    bias: float = 0.0


class Metric(Strategy):
    r"""A loss of a distribution over networks: a mean over examples, estimated from S posterior samples.

    Derive from `AbstractSampleMetric` for a function of the likelihoods of a target under the samples, and from
    `AbstractPredictionMetric` for a function of the averaged prediction.

    Laws:
        - *Per example*: the value of an example does not depend on the other examples.
        - *Exchangeable*: neither the order of the samples nor repeating all of them changes a value.
        - *Errors stated*: the Monte Carlo standard error is the standard deviation over independent repetitions.
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
    """A function of the log likelihoods of a target under all samples."""

    @abstractmethod
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return the metric of every example, and the effect of every sample on it.

        Args:
            log_prob: ``[S, N]``, in nats.

        Returns:
            Values ``[N]``, and effects ``[S, N]`` with mean zero over samples: the derivative of the value with respect
            to the weight of each sample, which is 1 / S.
        """

    def _bias(self, effects: Tensor) -> float:  # ruff: ignore[no-self-use] - overridden where there is a bias
        """Return the upward bias, given the effects ``[n, N]`` of independent samples; 0 for an unbiased metric."""
        del effects
        return 0.0

    @final
    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        examples, effects = self._values(predictions.log_prob)
        # Two samples of opposite noise are one independent draw.
        drawn = effects.unflatten(0, (-1, 2)).mean(1) if predictions.paired else effects
        bias = self._bias(drawn) if len(drawn) > 1 else 0.0
        return MetricValues(examples, _influence(drawn, predictions, contrasts), bias)


class AbstractPredictionMetric(Metric):
    """A function of the averaged prediction, whose Monte Carlo error is estimated by resampling groups of samples."""

    num_groups: ClassVar[int] = _GROUPS

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
        count = len(groups)
        if count == 1:
            return MetricValues(whole, whole.new_zeros(1))
        # The same resamples at every t, so that errors along a path stay paired.
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(count, (_RESAMPLES, count), generator=generator).to(groups.device)
        values = torch.stack([self._score(groups[rows].mean(0), targets).mean() for rows in chosen])
        # Scaled so that the standard error of their mean is the standard deviation of the resampled values.
        influence = (values - values.mean()) * math.sqrt(_RESAMPLES * count / (count - 1))
        return MetricValues(whole, influence)


def _influence(effects: Tensor, predictions: Predictions, contrasts: int | None) -> Tensor:
    """Return numbers whose mean has the standard error of the mean of effects ``[n, N]``."""
    count, examples = effects.shape
    if not predictions.independent or count == 1:
        return effects.mean(dim=1)
    # Contrasts of an example's samples, with weights of mean zero and mean square one (cosines): each has the variance
    # of the example's mean, and none is correlated with another. One is enough where there are many examples.
    contrasts = contrasts or min(count - 1, math.ceil(_ENOUGH / examples))
    order = torch.arange(1, contrasts + 1)
    angle = math.pi / count * torch.outer(order, torch.arange(count) + 0.5)
    weights = math.sqrt(2) * torch.cos(angle).to(effects)
    return math.sqrt(contrasts) / count * (weights @ effects).flatten()
