"""Standard scores of a predictive distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

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
from rebasin_core.evaluation.metrics.functions import binned_reliability
from rebasin_core.tensors.files import write_json
from rebasin_core.tensors.frames import data_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from torch import Tensor

    from rebasin_core.evaluation.evaluator import Evaluator
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior

CALIBRATION_BINS = 15
"""Number of bins of equal width of the expected calibration error in `PredictiveScores`."""


_FIXED = ("nll", "nll_stderr", "nll_bias", "nll_data_stderr", "effective_samples", "gibbs")


@final
@dataclass(frozen=True, slots=True)
class PredictiveScores:
    """Scores of a predictive distribution.

    Attributes:
        nll: Mean negative log likelihood of the predictive, nats per example.
        nll_stderr: Monte Carlo standard error of `nll`; 0 for a single network, NaN for a single sample of a
            distribution.
        nll_data_stderr: Standard error of `nll` from the finite dataset.
        gibbs: Mean over samples of the loss of a single network, nats per example.
        values: Other scores by name. Classification: ``accuracy``, ``brier``, ``ece`` (15 bins of equal width),
            ``entropy`` (of the predictive, mean over examples, nats), ``mutual_information`` (between target and
            weights, nats). Regression: ``rmse`` and ``crps``, in units of the targets. Other likelihoods: the mean
            score. With a ``target_scale`` also ``nll_original``, ``rmse_original`` and ``crps_original``, in the
            original units of the targets.
        bins: For classification, ``count``, ``confidence`` and ``accuracy`` of each bin (`reliability`); else None.
        nll_bias: Estimated upward bias of `nll` due to the finite number of samples.
        effective_samples: Effective number of samples of the loss of an example: the median over examples.
        least_effective_samples: The minimum over examples instead of the median.
        notes: Reasons for which the Monte Carlo error cannot be trusted; empty if there are none.
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
    def estimate(
        cls,
        evaluator: Evaluator,
        posterior: Posterior,
        *,
        target_scale: Sequence[float] = (),
        metrics: Sequence[Metric] = (),
    ) -> PredictiveScores:
        """Return the scores of a posterior.

        Args:
            evaluator: Evaluator of the model on the data.
            posterior: The posterior.
            target_scale: As for `of`.
            metrics: Further metrics, added to `values` by their titles.

        Returns:
            The scores.

        Raises:
            InvalidInputError: If the posterior does not match the model, a loss is not finite, or the scale does not
                fit the targets.
        """
        regression = isinstance(evaluator.likelihood, AbstractRegressionLikelihood)
        groups = max((metric.num_groups for metric in metrics), default=0)
        predictions = evaluator.predictions(posterior, groups=groups, keep_outputs=regression)
        found = cls.of(predictions, evaluator.likelihood, target_scale=target_scale)
        further: dict[str, float] = {}
        for metric in metrics:
            sign = -1 if metric.is_negated else 1
            further[metric.title.removeprefix("negative ")] = sign * LossEstimate.of(predictions, metric=metric).loss
        return replace(found, values=found.values | further)  # ruff: ignore[pandas-use-of-dot-values] - no data frame

    @classmethod
    def of(
        cls, predictions: Predictions, likelihood: Likelihood, *, target_scale: Sequence[float] = ()
    ) -> PredictiveScores:
        r"""Return the scores of predictions.

        With standardized targets $y / s$ the density of the original targets is smaller by the factor
        $\prod_k s_k$, so their negative log likelihood is larger by $\sum_k \log s_k$.

        Args:
            predictions: Predictions, as from `evaluation.predict`; for regression with ``keep_outputs=True``.
            likelihood: The likelihood of the predictions.
            target_scale: Numbers by which the dimensions of the targets were divided (`Target.scale`). If given, scores
                in the original units are added.

        Returns:
            The scores.

        Raises:
            InvalidInputError: If a loss is not finite, outputs are missing, or the scale does not have one positive
                number for each dimension of numeric targets.
        """
        scale = _checked_scale(target_scale, predictions, likelihood)
        estimate = LossEstimate.of(predictions)
        bins: dict[str, list[float]] | None = None
        if likelihood.targets == "classes":
            values, bins = _classification_scores(predictions, estimate)
        elif isinstance(likelihood, AbstractRegressionLikelihood):
            values = _regression_scores(predictions, likelihood, scale)
        else:
            values = {estimate.score_name: estimate.score}
        if scale is not None:
            values = {"nll_original": estimate.loss + scale.log().sum().item(), **values}
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

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with one row: all scores except bins and notes.

        Raises:
            PluginError: If pandas is not installed.
        """
        return data_frame({name: [value] for name, value in self._every().items()})

    def save(self, path: Path | str) -> None:
        """Write the scores, without bins and notes, to a JSON file, atomically.

        Args:
            path: Path of the file, which is replaced if it exists.

        Raises:
            StorageError: If it cannot be written.
        """
        write_json(path, self.as_json())

    @override
    def __str__(self) -> str:
        """Return the negative log likelihood with its standard errors, the other scores, and the notes."""
        errors = [f"± {self.nll_data_stderr:.2g} (data)"]
        if not math.isnan(self.nll_stderr) and self.nll_stderr:
            errors.insert(0, f"± {self.nll_stderr:.2g} (Monte Carlo)")
        others = "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return "\n".join([f"nll {self.nll:.4g} {' '.join(errors)}", others, *self.notes])

    def _every(self) -> dict[str, float]:
        return {**{name: getattr(self, name) for name in _FIXED}, **self.values}

    def as_json(self) -> dict[str, float | None]:
        """Return the scores, without bins and notes, as JSON; NaN becomes null."""
        return {name: None if math.isnan(value) else value for name, value in self._every().items()}


def _classification_scores(
    predictions: Predictions, estimate: LossEstimate
) -> tuple[dict[str, float], dict[str, list[float]] | None]:
    probabilities, targets = predictions.prediction, predictions.targets
    if targets is None or predictions.entropy is None:
        message = "the predictions lack targets or entropies; compute them with `predict`"
        raise InvalidInputError(message)
    if predictions.element_scores:
        return _element_scores(predictions, estimate)
    if probabilities.dim() != 2 or targets.is_floating_point():  # no class index per row
        return {estimate.score_name: estimate.score}, None
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


def _element_scores(
    predictions: Predictions, estimate: LossEstimate
) -> tuple[dict[str, float], dict[str, list[float]] | None]:
    """Return means over the elements (pixels, tokens) of dense targets."""
    scores = predictions.element_scores
    values = {"accuracy": estimate.score}
    bins: dict[str, list[float]] | None = None
    if "brier" in scores:
        parts = binned_reliability(scores["confidence"], predictions.score, bins=CALIBRATION_BINS)
        bins = {name: part.tolist() for name, part in zip(("count", "confidence", "accuracy"), parts, strict=True)}
        counts, confidence, accuracy = parts
        gaps = (counts * (confidence - accuracy)).abs().sum() / counts.sum()
        values |= {"brier": scores["brier"].mean().item(), "ece": gaps.item()}
    values["entropy"] = scores["predictive_entropy"].mean().item()
    if predictions.entropy is not None:
        values["mutual_information"] = values["entropy"] - predictions.entropy.mean().item()
    return values, bins


def _regression_scores(
    predictions: Predictions, likelihood: AbstractRegressionLikelihood, scale: Tensor | None
) -> dict[str, float]:
    outputs, targets = predictions.outputs, predictions.targets
    if outputs is None or targets is None:
        message = "the scores of a regression need the outputs of each network; pass `keep_outputs=True` to `predict`"
        raise InvalidInputError(message)
    mean, stddev = likelihood.moments(outputs.flatten(0, 1))
    means = mean.unflatten(0, outputs.shape[:2])
    stddevs = stddev.unflatten(0, outputs.shape[:2])
    found = {
        "rmse": math.sqrt(predictions.score.mean().item()),
        "crps": gaussian_mixture_crps(means, stddevs, targets).mean().item(),
    }
    if scale is None:
        return found
    unit = scale.to(means)
    errors = unit.double() * (predictions.prediction - targets).double()
    crps = gaussian_mixture_crps(unit * means, unit * stddevs, unit * targets).mean().item()
    return {**found, "rmse_original": math.sqrt(errors.square().mean().item()), "crps_original": crps}


def _checked_scale(scale: Sequence[float], predictions: Predictions, likelihood: Likelihood) -> Tensor | None:
    """Return the scale of the targets in float64; None if there is none."""
    if not scale:
        return None
    targets = predictions.targets
    size = targets.shape[-1] if likelihood.targets == "numbers" and targets is not None else 0
    if len(scale) != size or not all(0 < number < math.inf for number in scale):
        expected = f"{size} positive numbers" if size else f"none for the likelihood {likelihood.name!r}"
        message = f"expected `target_scale` to have {expected}, got {tuple(scale)!r}"
        raise InvalidInputError(message)
    return torch.tensor(scale, dtype=torch.float64)
