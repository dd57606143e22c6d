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


SCALE = (2.0, 0.5)


def regression() -> tuple[Predictions, torch.Tensor, torch.Tensor]:
    """Return predictions of three networks for five targets of two dimensions, with their targets and outputs."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    outputs = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    likelihood = rc.Likelihood.of("heteroscedastic")
    mean = torch.stack([likelihood.prediction(one) for one in outputs]).mean(0)
    given = Predictions(
        log_prob=torch.stack([likelihood.log_prob(one, targets) for one in outputs]),
        prediction=mean,
        score=likelihood.score(mean, targets),
        score_name="mean_squared_error",
        targets=targets,
        outputs=outputs,
    )
    return given, targets, outputs


def test_scores_in_the_original_units_are_those_of_the_original_targets() -> None:
    given, targets, outputs = regression()
    found = PredictiveScores.of(given, rc.Likelihood.of("heteroscedastic"), target_scale=SCALE).values
    unit = torch.tensor(SCALE, dtype=torch.float64)
    mean, raw = outputs.chunk(2, -1)
    stddev = 1e-3 + torch.nn.functional.softplus(raw)
    components = torch.distributions.Independent(
        torch.distributions.Normal((unit * mean).movedim(0, 1), (unit * stddev).movedim(0, 1)), 1
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(5, 3, dtype=torch.float64)), components
    )
    original = unit * targets
    assert found["nll_original"] == pytest.approx(-mixture.log_prob(original).mean().item(), rel=1e-12)
    assert found["rmse_original"] == pytest.approx((mixture.mean - original).square().mean().sqrt().item(), rel=1e-12)


def test_the_crps_in_the_original_units_is_that_of_samples() -> None:
    given, targets, outputs = regression()
    found = PredictiveScores.of(given, rc.Likelihood.of("heteroscedastic"), target_scale=SCALE).values
    unit = torch.tensor(SCALE, dtype=torch.float64)
    mean, raw = outputs.chunk(2, -1)
    stddev = 1e-3 + torch.nn.functional.softplus(raw)
    # CRPS = E|X - y| - E|X - X'| / 2, by samples of both dimensions.
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(3, (2, 200_000), generator=generator)
    noise = torch.randn(2, 200_000, 5, 2, generator=generator, dtype=torch.float64)
    drawn = unit * (mean[chosen] + stddev[chosen] * noise)
    crps = (drawn[0] - unit * targets).abs().mean() - (drawn[0] - drawn[1]).abs().mean() / 2
    assert found["crps_original"] == pytest.approx(crps.item(), rel=0.01)


def test_a_scale_adds_scores_and_changes_none() -> None:
    given, _, _ = regression()
    likelihood = rc.Likelihood.of("heteroscedastic")
    plain = PredictiveScores.of(given, likelihood)
    scaled = PredictiveScores.of(given, likelihood, target_scale=SCALE)
    assert {name: scaled.values[name] for name in plain.values} == plain.values
    assert set(scaled.values) - set(plain.values) == {"nll_original", "rmse_original", "crps_original"}
    assert scaled.nll == plain.nll
    same = PredictiveScores.of(given, likelihood, target_scale=(1.0, 1.0))
    assert same.values["nll_original"] == same.nll
    assert same.values["rmse_original"] == pytest.approx(same.values["rmse"])


@pytest.mark.parametrize("scale", [(2.0,), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_scale_that_does_not_fit_the_targets(scale: tuple[float, ...]) -> None:
    given, _, _ = regression()
    with pytest.raises(InvalidInputError, match="expected `target_scale` to have 2 positive numbers, got"):
        PredictiveScores.of(given, rc.Likelihood.of("heteroscedastic"), target_scale=scale)
    with pytest.raises(InvalidInputError, match="to have none for the likelihood 'categorical'"):
        PredictiveScores.of(predictions(), rc.Likelihood.of("categorical"), target_scale=(2.0,))


def test_the_top_level_function_accepts_a_scale() -> None:
    model = torch.nn.Linear(1, 1)
    task = rc.Task(model, [(torch.zeros(4, 1), torch.ones(4, 1))], rc.Likelihood.of("gaussian"))
    values = rc.score(model, task, target_scale=(3.0,)).values
    assert values["rmse_original"] == pytest.approx(3 * abs(model.bias.item() - 1), rel=1e-6)
