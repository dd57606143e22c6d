"""Scores of hand-made predictions: every attribute is the number of its name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import LossEstimate, Predictions, PredictiveScores

PROBABILITIES = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.8, 0.2]], [[0.6, 0.4], [0.2, 0.8]]]).double()
TARGETS = torch.tensor([0, 1])


def predictions() -> Predictions:
    mean = PROBABILITIES.mean(0)
    return Predictions(
        log_prob=PROBABILITIES[:, torch.arange(2), TARGETS].log(),
        prediction=mean,
        score=(mean.argmax(-1) == TARGETS).double(),
        score_name="accuracy",
        targets=TARGETS,
        entropy=torch.special.entr(PROBABILITIES).sum(-1).mean(0),
    )


def test_every_score_is_the_number_of_its_name() -> None:
    given = predictions()
    found = PredictiveScores.of(given, rc.Likelihood.of("categorical"))
    loss = LossEstimate.of(given)
    assert (found.nll, found.nll_stderr, found.nll_data_stderr) == (loss.loss, loss.stderr, loss.data_stderr)
    assert (found.nll_bias, found.gibbs, found.notes) == (loss.bias, loss.gibbs, loss.notes)
    assert found.notes
    weights = given.log_prob.exp() / given.log_prob.exp().sum(0)
    effective = 1 / weights.square().sum(0)
    assert found.effective_samples == pytest.approx(effective.median().item())
    assert found.least_effective_samples == pytest.approx(effective.min().item())
    assert found.least_effective_samples < found.effective_samples + 1e-12
    assert list(found.values) == ["accuracy", "brier", "ece", "entropy", "mutual_information"]
    entropy = torch.special.entr(PROBABILITIES.mean(0)).sum(-1)
    assert found.values["mutual_information"] == pytest.approx((entropy - given.entropy).mean().item())
    assert found.values["ece"] == rc.metrics.expected_calibration_error(given.prediction, TARGETS, bins=15)
    parts = rc.metrics.reliability(given.prediction, TARGETS, bins=15)
    assert found.bins == dict(zip(("count", "confidence", "accuracy"), (part.tolist() for part in parts), strict=True))


def test_json_has_null_for_unknown_numbers() -> None:
    found = PredictiveScores.of(predictions(), rc.Likelihood.of("categorical"))
    document = found.as_json()
    assert document["nll"] == found.nll
    assert document["brier"] == found.values["brier"]
    assert replace(found, nll_stderr=math.nan).as_json()["nll_stderr"] is None


def test_predictions_without_targets_or_outputs() -> None:
    given = predictions()
    for missing in (replace(given, entropy=None), replace(given, targets=None)):
        with pytest.raises(InvalidInputError, match="lack targets or entropies"):
            PredictiveScores.of(missing, rc.Likelihood.of("categorical"))
    for missing in (given, replace(given, targets=None, outputs=torch.zeros(3, 2, 1))):
        with pytest.raises(InvalidInputError, match="the outputs of each network"):
            PredictiveScores.of(missing, rc.Likelihood.of("gaussian"))
