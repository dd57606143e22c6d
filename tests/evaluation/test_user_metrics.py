"""Metrics of users: functions, and objects with the interface of torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import as_metric

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
torch.manual_seed(0)
MODEL, OTHER = nn.Linear(3, 3), nn.Linear(3, 3)
TASK = rc.Task(MODEL, [(X[:25], Y[:25]), (X[25:], Y[25:])])


class MacroRecall:
    """Mean over classes of the recall, as an object that accumulates."""

    higher_is_better = True

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.parts.append((preds.argmax(1), target))

    def compute(self) -> Tensor:
        found = torch.cat([part[0] for part in self.parts])
        target = torch.cat([part[1] for part in self.parts])
        return torch.stack([(found == k)[target == k].float().mean() for k in target.unique()]).mean()

    def reset(self) -> None:
        self.parts = []


class MeanOf:
    """Mean of the probability of the label: its jackknife error is that of the mean."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.values.append(preds.gather(1, target.unsqueeze(1)).squeeze(1))

    def compute(self) -> float:
        return torch.cat(self.values).mean().item()

    def reset(self) -> None:
        self.values = []


def recall(model: nn.Module) -> float:
    metric = MacroRecall()
    with torch.no_grad():
        metric.update(model(X).softmax(1), Y)
    return metric.compute().item()


def miss(prediction: Tensor, targets: Tensor) -> Tensor:
    return 1 - prediction.gather(1, targets.unsqueeze(1)).squeeze(1)


def test_a_function_is_a_metric() -> None:
    with torch.no_grad():
        expected = miss(MODEL(X).softmax(1), Y).double()
    curve = rc.barrier(MODEL, OTHER, TASK, num_points=3, metric=miss)
    assert curve.label == "miss"
    assert curve.loss[0] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert curve.data_stderr[0] == pytest.approx(expected.std().item() / math.sqrt(60), rel=1e-5)
    assert rc.score(MODEL, TASK, metrics=[miss, "error"]).values["miss"] == pytest.approx(curve.loss[0])


def test_an_object_that_accumulates_is_a_metric_whose_sign_makes_barriers_positive() -> None:
    metric = MacroRecall()
    curve = rc.barrier(MODEL, OTHER, TASK, num_points=3, metric=metric)
    assert curve.label == "negative MacroRecall"
    assert (curve.loss[0], curve.loss[-1]) == pytest.approx((-recall(MODEL), -recall(OTHER)))
    assert rc.score(MODEL, TASK, metrics=[metric]).values["MacroRecall"] == pytest.approx(recall(MODEL))
    assert not metric.parts  # the given object is not changed


def test_the_jackknife_error_of_a_mean_is_its_standard_error() -> None:
    with torch.no_grad():
        values = (1 - miss(MODEL(X).softmax(1), Y)).double()
    curve = rc.barrier(MODEL, MODEL, TASK, num_points=3, metric=MeanOf())
    blocks = values.reshape(3, 20).mean(0)  # example i is in block i modulo 20
    assert curve.data_stderr[0] == pytest.approx(blocks.std().item() / math.sqrt(20), rel=1e-5)


def test_the_monte_carlo_error_of_an_object() -> None:
    stddev = {name: torch.full_like(tensor, 0.3) for name, tensor in MODEL.named_parameters()}
    posterior = rc.posteriors.DiagonalGaussianPosterior(rc.as_posterior(MODEL).mean, stddev)
    curve = rc.barrier(posterior, posterior, TASK, num_points=3, num_samples=32, metric=MeanOf())
    assert 0 < curve.stderr[0] < 0.1


def test_metrics_that_are_not_metrics() -> None:
    given: Any
    for given, message in (
        (lambda *_: torch.tensor(1.0), r"one value for each of 60 examples, got shape \(\)"),
        (lambda *_: 1.0, "got float"),
        (3, "expected a metric: a name"),
        (MacroRecall, "expected a metric: a name"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            rc.barrier(MODEL, OTHER, TASK, num_points=3, metric=given)

    class PerClass(MacroRecall):
        @override
        def compute(self) -> Tensor:
            return torch.zeros(3)

    with pytest.raises(InvalidInputError, match="PerClass to be one number, got shape"):
        rc.score(MODEL, TASK, metrics=[PerClass()])


def test_dense_metrics_have_rows_for_elements() -> None:
    x, y = X.reshape(4, 5, 3, 3).movedim(-1, 1), Y.reshape(4, 5, 3)

    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        @override
        def forward(self, given: Tensor) -> Tensor:
            return self.scale * given

    task = rc.Task(Identity(), [(x, y)])
    metric = MacroRecall()
    metric.update(X, Y)
    found = rc.score(Identity(), task, metrics=[MacroRecall(), miss])
    assert found.values["MacroRecall"] == pytest.approx(metric.compute().item())
    assert found.values["miss"] == pytest.approx(miss(X.softmax(1), Y).mean().item(), rel=1e-5)


def test_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    with torch.no_grad():
        probabilities = MODEL(X).softmax(1)
    for metric in (
        torchmetrics.classification.MulticlassF1Score(num_classes=3),
        torchmetrics.classification.MulticlassAUROC(num_classes=3),
        torchmetrics.classification.MulticlassCalibrationError(num_classes=3),
    ):
        expected = metric(probabilities, Y).item()
        name = type(metric).__name__
        assert rc.score(MODEL, TASK, metrics=[metric]).values[name] == pytest.approx(expected, rel=1e-5)
        assert as_metric(metric).is_negated == bool(metric.higher_is_better)
