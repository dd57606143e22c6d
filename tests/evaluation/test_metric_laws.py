"""The laws of metrics detect wrong metrics."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.evaluation import MetricValues, Predictions
from rebasin_core.testing import LAWS, metric_laws


class MeanLoss(rc.evaluation.AbstractSampleMetric):
    """Same as the Gibbs loss."""

    label: ClassVar[str] = "loss"
    name: Literal["mean_loss"] = "mean_loss"

    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return -log_prob.mean(0), log_prob.mean(0) - log_prob


class BatchDependent(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return super()._values(log_prob - log_prob.mean())


class FirstSampleOnly(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return -log_prob[0], log_prob.mean(0) - log_prob


class TooSmallErrors(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        examples, effects = super()._values(log_prob)
        return examples, effects / 3


class InPlace(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        log_prob -= log_prob.max()
        return super()._values(log_prob)


class Failing(rc.Metric):
    label: ClassVar[str] = "failing"
    name: Literal["failing"] = "failing"

    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        raise rc.errors.InvalidInputError(self.name)


TRIALS = {law.name: law.trial for law in LAWS["metric"]}


@pytest.mark.parametrize("law", TRIALS)
def test_a_correct_metric_satisfies_all_laws(law: str, tmp_path: Path) -> None:
    TRIALS[law](MeanLoss(), tmp_path)


def test_laws_share_predictions_which_no_metric_can_change() -> None:
    before = metric_laws._predictions(MeanLoss(), "classes").log_prob
    InPlace().estimate(metric_laws._predictions(InPlace(), "classes"))
    assert torch.equal(metric_laws._predictions(MeanLoss(), "classes").log_prob, before)


@pytest.mark.parametrize(
    ("metric", "law"),
    [
        (BatchDependent(), "per_example"),
        (FirstSampleOnly(), "exchangeable"),
        (TooSmallErrors(), "errors_stated"),
        (InPlace(), "no_side_effects"),
        (Failing(), "per_example"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_metric_violates_a_law(metric: rc.Metric, law: str, tmp_path: Path) -> None:
    with pytest.raises(rc.RebasinError):
        TRIALS[law](metric, tmp_path)


def test_an_unknown_metric_raises() -> None:
    predictions = Predictions(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), "accuracy")
    with pytest.raises(rc.errors.UnknownNameError, match="no metric 'bier'; did you mean 'brier'"):
        rc.evaluation.LossEstimate.of(predictions, metric="bier")
