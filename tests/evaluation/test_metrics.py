"""Metrics of predictions, compared with scikit-learn and explicit computations."""

from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import Predictions


def test_brier_score_sums_over_both_classes(generator: torch.Generator) -> None:
    p = torch.rand(200, generator=generator).double()
    y = torch.randint(2, (200,), generator=generator)
    both = torch.stack([1 - p, p], 1)
    assert rc.metrics.brier_score(both, y) == pytest.approx(2 * brier_score_loss(y.numpy(), p.numpy()))


def test_calibration_error_of_four_examples() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    y = torch.tensor([0, 1, 1, 1])
    # Bins of width 0.1: two predictions at 0.9, one correct; one correct at 0.6 and at 0.65, in different bins.
    expected = (2 * 0.4 + 0.4 + 0.35) / 4
    assert rc.metrics.expected_calibration_error(p, y, bins=10) == pytest.approx(expected, abs=1e-6)


def test_calibrated_predictions_have_no_error() -> None:
    p = torch.tensor([[0.75, 0.25]] * 4)
    assert rc.metrics.expected_calibration_error(p, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("metric", [rc.metrics.brier_score, rc.metrics.expected_calibration_error])
def test_logits_raise(metric: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
    with pytest.raises(rc.RebasinError, match="apply softmax first"):
        metric(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    with pytest.raises(rc.RebasinError, match="expected probabilities"):
        metric(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))


def test_auroc_with_ties(generator: torch.Generator) -> None:
    inside, outside = (torch.randint(10, (n,), generator=generator) / 10 + shift for n, shift in ((300, 0), (200, 0.2)))
    expected = roc_auc_score([0] * 300 + [1] * 200, torch.cat([inside, outside]).numpy())
    assert rc.metrics.auroc(inside, outside) == pytest.approx(expected)
    with pytest.raises(rc.RebasinError, match="expected finite scores"):
        rc.metrics.auroc(torch.tensor([]), outside)


def test_crps_of_gaussian_mixtures_by_numerical_integration(generator: torch.Generator) -> None:
    means, scales = torch.randn(5, 3, 1, generator=generator).double(), 0.3 + torch.rand(5, 3, 1, generator=generator)
    y = torch.randn(3, 1, generator=generator).double()
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    distribution = torch.special.ndtr((grid - means) / scales.double()).mean(0)
    integral = torch.trapezoid((distribution - (grid >= y).double()).square(), grid)
    torch.testing.assert_close(
        rc.metrics.gaussian_mixture_crps(means, scales, y).squeeze(-1), integral, rtol=0, atol=1e-4
    )
    with pytest.raises(rc.RebasinError, match=r"expected means and standard deviations \[S, N, K\]"):
        rc.metrics.gaussian_mixture_crps(means, scales, y[:2])


def test_distances_between_predictives() -> None:
    p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert rc.metrics.total_variation(p, p) == 0.0
    assert rc.metrics.total_variation(p, q) == pytest.approx(0.5)
    assert rc.metrics.agreement(p, q) == pytest.approx(0.5)
    assert rc.metrics.predictive_entropy(p).tolist() == pytest.approx([0.6931, 0.0], abs=1e-4)
    with pytest.raises(rc.RebasinError, match="two predictives"):
        rc.metrics.agreement(p, q[:1])


class PixelLikelihood(rc.Likelihood):
    """One class per pixel."""

    name: Literal["pixel"] = "pixel"
    targets: ClassVar[Literal["classes", "numbers"]] = "classes"

    @override
    def check(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        del outputs, targets

    @override
    def log_prob(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_prob = outputs.log_softmax(-3).gather(-3, targets.unsqueeze(-3).expand(*outputs.shape[:-3], 1, -1, -1))
        return log_prob.flatten(-3).sum(-1)

    @override
    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-3)

    @override
    def score(self, prediction: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (prediction.argmax(-3) == targets).double().mean((-1, -2))

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"


@pytest.mark.parametrize("metric", ["error", "brier"])
def test_classification_metrics_raise_for_one_class_per_pixel(metric: str) -> None:
    first, second = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    task = rc.Task(first, [(torch.randn(6, 1, 4, 4), torch.randint(3, (6, 4, 4)))], PixelLikelihood())
    with pytest.raises(
        InvalidInputError, match=rf"'{metric}' needs probabilities \[N, K\] and one class index per example.*use `nll`"
    ):
        rc.barrier(first, second, task, metric=metric, num_points=3)
    assert len(rc.barrier(first, second, task, num_points=3).loss) == 3


def test_squared_errors_of_images_are_averaged_over_their_entries() -> None:
    mean, targets = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    targets[1] = 3.0
    zeros = torch.zeros(1, 2)
    predictions = Predictions(zeros, mean, zeros[0], "mse", targets=targets, groups=mean.unsqueeze(0))
    found = rc.evaluation.metrics.SquaredErrorMetric().estimate(predictions)
    assert found.examples.tolist() == [1.0, 4.0]
