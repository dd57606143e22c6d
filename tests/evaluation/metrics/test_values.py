"""Metrics of hand-made predictions, against NumPy, exact resampling and leaving out, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import Metric, Predictions
from rebasin_core.tensors.statistics import mean_stderr

GROUPS = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(1)).double()
GROUPS /= GROUPS.sum(-1, keepdim=True)
# The last class never occurs, so that it cannot be counted from the targets.
TARGETS = torch.tensor([0, 1, 1, 0])


def predictions(groups: torch.Tensor, targets: torch.Tensor) -> Predictions:
    chosen = groups.mean(0).gather(1, targets.unsqueeze(1)).squeeze(1)
    return Predictions(chosen.log().unsqueeze(0), groups.mean(0), chosen, "p", targets=targets, groups=groups)


def brier(mean: np.ndarray) -> np.ndarray:
    scores: np.ndarray = ((mean - np.eye(3)[TARGETS.numpy()]) ** 2).sum(-1)
    return scores


def test_the_jackknife_of_the_brier_score_is_that_of_leaving_out() -> None:
    found = Metric.of("brier").estimate(predictions(GROUPS, TARGETS))
    groups = GROUPS.numpy()
    np.testing.assert_allclose(found.examples, brier(groups.mean(0)))
    without = np.array([brier(np.delete(groups, index, 0).mean(0)).mean() for index in range(3)])
    # Quenouille's bias and Tukey's variance.
    assert found.bias == pytest.approx(2 * (without.mean() - brier(groups.mean(0)).mean()))
    assert mean_stderr(found.influence).item() == pytest.approx(
        math.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())
    )
    # The score is quadratic, so that the bias is known exactly: the mean variance over the number of groups.
    assert found.bias == pytest.approx(groups.var(0, ddof=1).sum(-1).mean() / 3)


def test_the_bootstrap_of_the_error_is_that_over_all_resamples() -> None:
    found = Metric.of("error").estimate(predictions(GROUPS, TARGETS))
    groups = GROUPS.numpy()

    def error(mean: np.ndarray) -> float:
        return float((mean.argmax(-1) != TARGETS.numpy()).mean())

    assert found.examples.tolist() == (groups.mean(0).argmax(-1) != TARGETS.numpy()).tolist()
    exact = np.array([error(groups[list(rows)].mean(0)) for rows in itertools.product(range(3), repeat=3)])
    assert exact.std() > 0.1
    # n / (n - 1) times the variance and the bias of resamples; the resamples are random, and some hundreds.
    assert mean_stderr(found.influence).item() == pytest.approx(math.sqrt(3 / 2) * exact.std(), rel=0.15)
    assert found.bias == pytest.approx(1.5 * (exact.mean() - error(groups.mean(0))), abs=0.25 * exact.std())
    assert abs(found.influence.mean().item()) < 1e-9


def test_resamples_are_the_same_at_every_call_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first = Metric.of("error").estimate(predictions(GROUPS, TARGETS))
    second = Metric.of("error").estimate(predictions(GROUPS, TARGETS))
    torch.testing.assert_close(first.influence, second.influence, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("paired", [False, True])
def test_the_error_of_the_gibbs_loss_is_that_of_a_mean(*, paired: bool) -> None:
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, -2.5], [-0.5, -1.0], [-2.0, -4.0]], dtype=torch.float64)
    given = Predictions(log_prob, torch.zeros(2, 2), torch.zeros(2), "p", paired=paired)
    found = Metric.of("gibbs").estimate(given)
    torch.testing.assert_close(found.examples, -log_prob.mean(0))
    draws = log_prob.reshape(2, 2, 2).mean(1) if paired else log_prob
    expected = draws.mean(1).std() / math.sqrt(len(draws))
    assert mean_stderr(found.influence).item() == pytest.approx(expected.item())
    assert found.bias == 0


P = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.35, 0.4], [0.1, 0.45, 0.45], [0.0, 1.0, 0.0]], dtype=torch.float64)


def test_scores_of_classes_that_do_not_occur() -> None:
    truth = np.eye(3)[[0, 1, 1, 1]]
    expected = ((P.numpy() - truth) ** 2).sum(-1).mean()
    assert rc.metrics.brier_score(P, torch.tensor([0, 1, 1, 1])) == pytest.approx(expected)


def test_reliability_by_hand() -> None:
    counts, confidence, accuracy = rc.metrics.reliability(P, torch.tensor([0, 1, 1, 0]), bins=5)
    # 0.4 and 0.45 lie in (0.2, 0.4] and (0.4, 0.6]; 0.7 in (0.6, 0.8]; 1 in the last bin.
    assert counts.tolist() == [0, 1, 1, 1, 1]
    assert confidence.tolist() == pytest.approx([0, 0.4, 0.45, 0.7, 1])
    assert accuracy.tolist() == [0, 0, 1, 1, 0]
    (total,), _, (right,) = rc.metrics.reliability(P, torch.tensor([0, 1, 1, 0]), bins=1)
    assert (total.item(), right.item()) == (4, 0.5)
    # Rounding of softmax in low precision is no reason to fall out of the last bin.
    assert rc.metrics.reliability(P * 1.004, torch.tensor([0, 1, 1, 0]), bins=5)[0].tolist()[-1] == 1
    with pytest.raises(InvalidInputError, match="expected at least one bin, got 0"):
        rc.metrics.reliability(P, torch.tensor([0, 1, 1, 0]), bins=0)


def test_fifteen_bins_are_the_default(generator: torch.Generator) -> None:
    p = torch.rand(500, 4, generator=generator).double().softmax(-1) ** 2
    p /= p.sum(-1, keepdim=True)
    y = torch.randint(4, (500,), generator=generator)
    assert len(rc.metrics.reliability(p, y)[0]) == 15
    assert rc.metrics.expected_calibration_error(p, y) == rc.metrics.expected_calibration_error(p, y, bins=15)
    largest = p.amax(-1).numpy()
    right = (p.argmax(-1) == y).numpy()
    for count in (15, 4):
        edges = itertools.pairwise(np.linspace(0, 1, count + 1))
        bins = [(largest > low) & (largest <= high) for low, high in edges]
        expected = sum(abs(right[chosen].sum() - largest[chosen].sum()) for chosen in bins) / 500
        assert rc.metrics.expected_calibration_error(p, y, bins=count) == pytest.approx(expected)


def test_agreement_and_total_variation_by_hand() -> None:
    other = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.2, 0.7, 0.1]], dtype=torch.float64)
    assert rc.metrics.agreement(P, other) == 0.75
    expected = np.abs(P.numpy() - other.numpy()).sum() / 2 / 4
    assert rc.metrics.total_variation(P, other) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [rc.metrics.agreement, rc.metrics.total_variation])
@pytest.mark.parametrize("shape", [(0, 3), (4,), (4, 3, 1)])
def test_predictives_of_a_wrong_shape_are_invalid(metric: type, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="expected two predictives"):
        metric(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), "expected probabilities"),
        (P, torch.tensor([0, 1]), "expected probabilities"),
        (torch.tensor([[0.9, 0.6]]), torch.tensor([0]), "sums off by up to 0.5"),
        (torch.tensor([[1.2, -0.2]]), torch.tensor([0]), "a minimum of -0.2"),
    ],
)
def test_rows_that_are_no_probabilities(probabilities: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        rc.metrics.brier_score(probabilities, targets)


@pytest.mark.parametrize("metric", ["brier", "error"])
@pytest.mark.parametrize(("shape", "targets"), [((3, 4, 3, 2), (4,)), ((3, 4, 3), (4, 3)), ((3, 4, 3), (5,))])
def test_metrics_of_classes_need_one_row_and_one_class_an_example(
    metric: str, shape: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    groups, classes = torch.full(shape, 0.5), torch.zeros(targets).long()
    given = Predictions(torch.zeros(1, 4), groups.mean(0), torch.zeros(4), "p", targets=classes, groups=groups)
    with pytest.raises(InvalidInputError):
        Metric.of(metric).estimate(given)
