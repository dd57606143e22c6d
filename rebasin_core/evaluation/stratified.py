"""Predictions with a different number of samples for each example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.allocation import MIN_SAMPLES, Allocation
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.predictive import HeldTask, Predictions, predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.networks import Sampling
    from rebasin_core.posteriors.base import Posterior


@final
class StratifiedPredictor:
    """Predictor with the number of samples per example of an `Allocation`, the same for all posteriors.

    Args:
        task: The model, data and likelihood.
        sampling: Mean number of samples per example and their seed, and how they are evaluated.
        metric: Metric whose error is minimized; one without groups of samples, such as ``nll`` or ``gibbs``.

    Raises:
        InvalidInputError: If the metric needs groups of samples.
    """

    def __init__(self, task: HeldTask, sampling: Sampling, *, metric: Metric | str = "nll") -> None:
        self._metric = Metric.of(metric)
        if self._metric.num_groups:
            message = (
                "allocation='adaptive' needs a metric without groups of samples, such as nll and gibbs, got "
                f"{self._metric.name!r}; use allocation='even'"
            )
            raise InvalidInputError(message)
        self._task = task
        # Within a stratum, all examples have the same number of samples.
        self._sampling = replace(sampling, options=sampling.options.model_copy(update={"allocation": "even"}))

    def pilot(self, posterior: Posterior) -> LossEstimate:
        """Return the loss estimated from four samples, to be used for an allocation only.

        Args:
            posterior: A distribution over the model's parameters.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If targets are dense, noise is not independent across examples, or `predict` raises it.
        """
        if any(self._task.likelihood.is_dense(targets) for _, targets in self._task.batches):
            message = (
                "allocation='adaptive' is not applicable to dense targets, or to targets with class weights or ignored "
                "labels; use allocation='even'"
            )
            raise InvalidInputError(message)
        predictions = self._predict(posterior, self._task.batches, MIN_SAMPLES, stream=-1)
        if not predictions.independent:
            message = (
                "allocation='adaptive' needs noise that is independent across examples: independent Gaussians over "
                f"dense layers, or method='local'; got a {posterior.kind!r} posterior whose weights are sampled; use "
                "allocation='even'"
            )
            raise InvalidInputError(message)
        estimate = LossEstimate.of(predictions, metric=self._metric, contrasts=1)
        if estimate.bias_errors is None:
            return estimate
        # For two pairs, the contrast of the log mean is half the difference of their logs. It is unbounded: an example
        # whose likelihood comes from one pair alone would receive all samples. Its tanh is the difference of the pairs'
        # shares, in [-1, 1].
        return replace(estimate, sample_influence=estimate.sample_influence.tanh())

    def allocate(self, errors: Tensor, losses: Tensor) -> Allocation:
        """Return the allocation for the results of a pilot.

        Args:
            errors: ``[N]``, as for `Allocation.of`.
            losses: ``[N]``, as for `Allocation.of`.

        Returns:
            The allocation.

        Raises:
            InvalidInputError: If there are fewer than 8 samples per example.
        """
        return Allocation.of(errors, losses, self._task.batches, self._sampling.num_samples)

    def predictions(self, posterior: Posterior, allocation: Allocation) -> Predictions:
        """Return the predictions of a posterior.

        Args:
            posterior: A distribution over the model's parameters.
            allocation: Number of samples of each example.

        Returns:
            The predictions for all examples in the order of the dataset, and those of each stratum (`parts`).

        Raises:
            InvalidInputError: As for `predict`.
        """
        parts = [
            self._predict(posterior, stratum.batches, stratum.num_samples, stream=index)
            for index, stratum in enumerate(allocation.strata)
        ]
        order = torch.cat([stratum.rows for stratum in allocation.strata]).argsort()
        min_samples = min(len(part.log_prob) for part in parts)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])[order]

        return Predictions(
            log_prob=torch.cat([part.log_prob[:min_samples] for part in parts], 1)[:, order],
            prediction=joined("prediction"),
            score=joined("score"),
            score_name=self._task.likelihood.score_name,
            targets=joined("targets"),
            entropy=joined("entropy"),
            paired=parts[0].paired,
            independent=True,
            parts=tuple(zip(allocation.strata, parts, strict=True)),
        )

    def _predict(self, posterior: Posterior, batches: Sequence[Batch], num_samples: int, *, stream: int) -> Predictions:
        """Return predictions with the noise of one of several independent streams."""
        seed = (self._sampling.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        sampling = replace(self._sampling, num_samples=num_samples, seed=seed)
        return predict(posterior, replace(self._task, batches=batches), sampling)
