"""The laws of metrics find wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.evaluation import MetricValues, Predictions
from rebasin_core.testing import LAWS


class MeanLoss(rc.evaluation.AbstractSampleMetric):
    """The Gibbs loss once more."""

    label: ClassVar[str] = "loss"
    name: Literal["mean_loss"] = "mean_loss"

    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return -log_prob.mean(0), log_prob.mean(0) - log_prob


class OfTheBatch(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return super()._values(log_prob - log_prob.mean())


class OfTheFirst(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return -log_prob[0], log_prob.mean(0) - log_prob


class TooSure(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        examples, effects = super()._values(log_prob)
        return examples, effects / 3


class InPlace(MeanLoss):
    @override
    def _values(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        log_prob -= log_prob.max()
        return super()._values(log_prob)


class Refusing(rc.Metric):
    label: ClassVar[str] = "nothing"
    name: Literal["refusing"] = "refusing"

    @override
    def estimate(self, predictions: Predictions, *, contrasts: int | None = None) -> MetricValues:
        raise rc.errors.InvalidInputError(self.name)


def broken_laws(metric: rc.Metric, folder: Path) -> set[str]:
    broken: set[str] = set()
    for law in LAWS["metric"]:
        try:
            law.trial(metric, folder)
        except rc.RebasinError:
            broken.add(law.name)
    return broken


def test_a_right_metric_keeps_all_laws(tmp_path: Path) -> None:
    assert not broken_laws(MeanLoss(), tmp_path)


@pytest.mark.parametrize(
    ("metric", "law"),
    [
        (OfTheBatch(), "per_example"),
        (OfTheFirst(), "exchangeable"),
        (TooSure(), "errors_stated"),
        (InPlace(), "no_side_effects"),
        (Refusing(), "per_example"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_metric_breaks_a_law(metric: rc.Metric, law: str, tmp_path: Path) -> None:
    assert law in broken_laws(metric, tmp_path)


def test_an_unknown_metric_is_named() -> None:
    predictions = Predictions(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), "accuracy")
    with pytest.raises(rc.errors.UnknownNameError, match="no metric 'bier'; did you mean 'brier'"):
        rc.evaluation.LossEstimate.of(predictions, metric="bier")
