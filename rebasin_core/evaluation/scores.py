"""All the usual scores of a predictive distribution at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihoods import AbstractRegressionLikelihood
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metrics import (
    brier_score,
    expected_calibration_error,
    gaussian_mixture_crps,
    predictive_entropy,
    reliability,
)

if TYPE_CHECKING:
    from rebasin_core.evaluation.evaluator import Evaluator
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior

CALIBRATION_BINS = 15
"""Bins of equal width of the expected calibration error in `PredictiveScores`."""


_FIXED = ("nll", "nll_stderr", "nll_bias", "nll_data_stderr", "effective_samples", "gibbs")


@final
@dataclass(frozen=True, slots=True)
class PredictiveScores:
    """How good a predictive distribution is.

    Attributes:
        nll: Negative mean log likelihood of the predictive, nats per example.
        nll_stderr: Its Monte Carlo standard error; 0 for one network, NaN for a single sample of a distribution.
        nll_data_stderr: Its standard error from the finite number of examples.
        gibbs: The mean loss of one drawn network, nats per example.
        values: The other scores by name. Classes: ``accuracy``, ``brier``, ``ece`` (15 bins of equal width),
            ``entropy`` (of the predictive, mean over examples), ``mutual_information`` (between target and weights).
            Regression: ``rmse`` and ``crps``, in units of the targets.
        bins: Of classes: ``count``, ``confidence`` and ``accuracy`` of every bin, as `reliability` gives them.
        nll_bias: Estimate of the upward bias of `nll` from the finite number of samples.
        effective_samples: The number of samples that the loss of an example rests on: the median over examples.
        least_effective_samples: The least of them.
        notes: Why the Monte Carlo error cannot be trusted; empty if it can.
    """

    nll: float
    nll_stderr: float
    nll_data_stderr: float
    gibbs: float
    values: dict[str, float]
    bins: dict[str, list[float]] | None = None
    nll_bias: float = math.nan
    effective_samples: float = math.nan
    least_effective_samples: float = math.nan
    notes: tuple[str, ...] = ()

    @classmethod
    def estimate(cls, evaluator: Evaluator, posterior: Posterior) -> PredictiveScores:
        """Return the scores of a posterior.

        Args:
            evaluator: Runs posterior samples on data.
            posterior: The posterior.

        Returns:
            The scores.

        Raises:
            InvalidInputError: If the posterior does not fit, or a loss is not finite.
        """
        regression = isinstance(evaluator.likelihood, AbstractRegressionLikelihood)
        return cls.of(evaluator.predictions(posterior, keep_outputs=regression), evaluator.likelihood)

    @classmethod
    def of(cls, predictions: Predictions, likelihood: Likelihood) -> PredictiveScores:
        """Return the scores of predictions.

        Args:
            predictions: As from `evaluation.predict`; for regression with outputs kept.
            likelihood: What they were scored by.

        Returns:
            The scores.

        Raises:
            InvalidInputError: If a loss is not finite, or outputs are missing.
        """
        estimate = LossEstimate.of(predictions)
        bins: dict[str, list[float]] | None = None
        if likelihood.targets == "classes":
            values, bins = _of_classes(predictions, estimate)
        elif isinstance(likelihood, AbstractRegressionLikelihood):
            values = _of_numbers(predictions, likelihood)
        else:
            values = {estimate.score_name: estimate.score}
        effective = estimate.effective_samples
        return cls(
            nll=estimate.loss,
            nll_stderr=estimate.stderr,
            nll_data_stderr=estimate.data_stderr,
            gibbs=estimate.gibbs,
            values=values,
            bins=bins,
            nll_bias=estimate.bias,
            effective_samples=math.nan if effective is None else effective.median().item(),
            least_effective_samples=math.nan if effective is None else effective.min().item(),
            notes=estimate.notes,
        )

    def as_json(self) -> dict[str, float | None]:
        """Return all scores, without the bins and notes, as plain JSON; NaN becomes null."""
        fixed = {name: getattr(self, name) for name in _FIXED}
        return {name: None if math.isnan(value) else value for name, value in {**fixed, **self.values}.items()}


def _of_classes(predictions: Predictions, estimate: LossEstimate) -> tuple[dict[str, float], dict[str, list[float]]]:
    probabilities, targets = predictions.prediction, predictions.targets
    if targets is None or predictions.entropy is None:
        message = "the predictions do not hold their targets and entropies; make them by `predict`"
        raise InvalidInputError(message)
    entropy = predictive_entropy(probabilities)
    parts = reliability(probabilities, targets, bins=CALIBRATION_BINS)
    bins = {name: part.tolist() for name, part in zip(("count", "confidence", "accuracy"), parts, strict=True)}
    values = {
        "accuracy": estimate.score,
        "brier": brier_score(probabilities, targets),
        "ece": expected_calibration_error(probabilities, targets, bins=CALIBRATION_BINS),
        "entropy": entropy.mean().item(),
        "mutual_information": (entropy - predictions.entropy).mean().item(),
    }
    return values, bins


def _of_numbers(predictions: Predictions, likelihood: AbstractRegressionLikelihood) -> dict[str, float]:
    outputs, targets = predictions.outputs, predictions.targets
    if outputs is None or targets is None:
        message = "the scores of a regression need every network's outputs; set `keep_outputs` of `predict`"
        raise InvalidInputError(message)
    mean, scale = likelihood.moments(outputs.flatten(0, 1))
    means = mean.unflatten(0, outputs.shape[:2])
    scales = scale.unflatten(0, outputs.shape[:2])
    return {
        "rmse": math.sqrt(predictions.score.mean().item()),
        "crps": gaussian_mixture_crps(means, scales, targets).mean().item(),
    }
