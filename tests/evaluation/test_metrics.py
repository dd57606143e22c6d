"""Metrics of predictions, against scikit-learn and by hand."""

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import brier_score_loss

import rebasin_core as rc


def test_brier_score_of_two_classes_is_twice_that_of_one(generator: torch.Generator) -> None:
    p = torch.rand(200, generator=generator).double()
    y = torch.randint(2, (200,), generator=generator)
    both = torch.stack([1 - p, p], 1)
    assert rc.brier_score(both, y) == pytest.approx(2 * brier_score_loss(y.numpy(), p.numpy()))


def test_calibration_error_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    y = torch.tensor([0, 1, 1, 1])
    # Bins of one tenth: 0.9 twice, half right; 0.6 right; 0.65 right.
    expected = (2 * 0.4 + 0.4 + 0.35) / 4
    assert rc.expected_calibration_error(p, y, bins=10) == pytest.approx(expected, abs=1e-6)


def test_calibrated_predictions_have_no_error() -> None:
    p = torch.tensor([[0.75, 0.25]] * 4)
    assert rc.expected_calibration_error(p, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("metric", [rc.brier_score, rc.expected_calibration_error])
def test_logits_are_refused(metric: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
    with pytest.raises(rc.RebasinError, match="apply softmax first"):
        metric(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    with pytest.raises(rc.RebasinError, match="expected probabilities"):
        metric(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))
