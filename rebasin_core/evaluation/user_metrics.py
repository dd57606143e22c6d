"""Metrics of users: functions, and objects with the interface of torchmetrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, final, runtime_checkable

import torch
from pydantic import field_serializer
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.metric import AbstractPredictionMetric, Metric, MetricValues, bootstrap

if TYPE_CHECKING:
    from rebasin_core.evaluation.predictive import Predictions

_MAX_BLOCKS = 20


@runtime_checkable
class MetricObject(Protocol):
    """Object that accumulates a metric of a dataset, such as a metric of torchmetrics."""

    def update(self, preds: Any, target: Any) -> None:  # ruff: ignore[any-type] - of another library
        """Add predictions and targets."""

    def compute(self) -> Any:  # ruff: ignore[any-type] - of another library
        """Return the metric of everything added since the last reset."""

    def reset(self) -> None:
        """Remove everything."""


MetricLike: TypeAlias = Metric | str | Mapping[str, object] | MetricObject | Callable[[Any, Any], Tensor]
"""A metric, a registered name, a mapping with ``name`` and options, a metric of torchmetrics, or a function."""


def as_metric(value: object) -> Metric:
    """Return the metric that a user means.

    - A metric, a registered name, or a mapping with ``name`` and options.
    - An object with the methods ``update(predictions, targets)``, ``compute()`` and ``reset()``, such as a metric of
      torchmetrics. It is copied, not changed. If its attribute ``higher_is_better`` is true, barriers use the negative
      metric. ``compute`` returns one number for the dataset; the standard error from the finite dataset is estimated
      by the jackknife over 20 blocks of examples.
    - A function of the averaged predictions ``[N, K]`` (class probabilities or means) and the targets that returns one
      value per example, ``[N]``; lower is better.

    For dense targets, rows are elements (pixels, tokens).

    Args:
        value: The value.

    Returns:
        The metric.

    Raises:
        InvalidInputError: If it is none of these.
        UnknownNameError: If no metric is registered under the name.
        ConfigError: If an option of the metric is invalid.

    Examples:
        >>> def miss(predictions, targets):
        ...     return 1 - predictions.gather(1, targets.unsqueeze(1)).squeeze(1)
        >>> as_metric(miss).title
        'miss'
    """
    if isinstance(value, Metric | str | Mapping):
        return Metric.of(value)
    if isinstance(value, MetricObject) and not isinstance(value, type):
        return DatasetMetric(metric=value)
    if callable(value) and not isinstance(value, type):
        return FunctionMetric(function=value)
    message = (
        f"expected a metric: a name, a `Metric`, an object with `update`, `compute` and `reset`, or a function of "
        f"predictions and targets, got {value!r}"
    )
    raise InvalidInputError(message)


@final
class FunctionMetric(AbstractPredictionMetric):
    """A function of averaged predictions and targets that returns one value per example."""

    label: ClassVar[str] = "function"

    name: Literal["function"] = "function"

    function: Callable[[Any, Any], Any]
    """Function of predictions ``[N, K]`` and targets that returns ``[N]``."""

    @field_serializer("function")
    def _qualified_name(self, function: Callable[..., Any]) -> str:  # ruff: ignore[no-self-use] - pydantic's interface
        return _name(function)

    @property
    @override
    def title(self) -> str:
        return _name(self.function)

    @override
    def _score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        values = self.function(prediction, targets)
        if not isinstance(values, Tensor) or values.shape != (len(targets),):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            message = (
                f"expected the metric {self.title} to return one value for each of {len(targets)} examples, got "
                f"{found}; for a metric of the whole dataset, give an object with `update`, `compute` and `reset`, "
                "as those of torchmetrics"
            )
            raise InvalidInputError(message)
        return values.double()


@final
class DatasetMetric(Metric):
    """A metric of a whole dataset, computed by an object with the interface of torchmetrics."""

    label: ClassVar[str] = "metric of the dataset"
    num_groups: ClassVar[int] = AbstractPredictionMetric.num_groups

    name: Literal["dataset"] = "dataset"

    metric: Any
    """Object with the methods ``update``, ``compute`` and ``reset``."""

    @field_serializer("metric")
    def _described(self, metric: object) -> str:  # ruff: ignore[no-self-use] - pydantic's interface
        return repr(metric)

    @property
    @override
    def title(self) -> str:
        return f"negative {self._own_name}" if self.is_negated else self._own_name

    @property
    def _own_name(self) -> str:
        return type(self.metric).__name__

    @property
    @override
    def is_negated(self) -> bool:
        return bool(getattr(self.metric, "higher_is_better", False))

    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        groups, targets = predictions.groups, predictions.targets
        if groups is None or targets is None:
            message = f"the metric {self._own_name} needs predictions of groups of samples; pass `groups` to `predict`"
            raise InvalidInputError(message)
        prediction = predictions.prediction
        whole = self._value(prediction, targets)
        values = whole + self._deviations(prediction, predictions, whole)
        if len(groups) == 1:
            return MetricValues(values, values.new_zeros(1))

        def score(other: Tensor) -> Tensor:
            return values.new_tensor([self._value(other, targets)])

        return MetricValues(values, *bootstrap(groups, score))

    def _value(self, prediction: Tensor, targets: Tensor) -> float:
        """Return the metric of the dataset, negated if higher is better."""
        metric = copy.deepcopy(self.metric)
        metric.reset()
        try:
            metric.update(prediction, targets)
            found = metric.compute()
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            message = (
                f"the metric {self._own_name} cannot be computed from predictions of shape {tuple(prediction.shape)} "
                f"and targets of shape {tuple(targets.shape)}: {error}"
            )
            raise InvalidInputError(message) from error
        if isinstance(found, Tensor) and found.numel() == 1:
            found = found.item()
        if not isinstance(found, int | float):
            shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            message = (
                f"expected the metric {self._own_name} to be one number, got {shape}; choose an average over classes"
            )
            raise InvalidInputError(message)
        return -float(found) if self.is_negated else float(found)

    def _deviations(self, prediction: Tensor, predictions: Predictions, whole: float) -> Tensor:
        """Return values of mean zero whose standard error is the jackknife error over blocks of examples."""
        rows = torch.arange(len(prediction), device=prediction.device)
        examples = rows if predictions.examples is None else predictions.examples
        count = len(examples.unique())
        blocks = min(_MAX_BLOCKS, count)
        zeros = torch.zeros(len(rows), dtype=torch.float64, device=prediction.device)
        targets = predictions.targets
        if blocks < 2 or targets is None:
            return zeros
        block = examples % blocks
        parts = [block != index for index in range(blocks)]
        without = torch.tensor([self._value(prediction[part], targets[part]) for part in parts], dtype=torch.float64)
        pseudo_values = (blocks * whole - (blocks - 1) * without).to(zeros)
        deviations = (pseudo_values - pseudo_values.mean())[block]
        # The error of a mean of `count` values becomes that of a mean of `blocks` pseudo-values.
        scaled = deviations * math.sqrt((count - 1) / (blocks - 1))
        return scaled - scaled.mean()


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
