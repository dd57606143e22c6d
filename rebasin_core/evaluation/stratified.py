"""Predictions where examples get different numbers of samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.allocation import LEAST_SAMPLES, Allocation
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.predictive import HeldTask, Predictions, predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.networks import Sampling
    from rebasin_core.posteriors.base import Posterior


@final
class StratifiedPredictor:
    """Predicts with as many samples of every example as an `Allocation` gives it, the same for all posteriors.

    Args:
        task: The model, data and likelihood.
        sampling: The posterior samples of an example on average, and how they are run.
        metric: The metric whose error is minimized: one of the samples of each example, such as ``nll`` or ``gibbs``.

    Raises:
        InvalidInputError: If the metric needs groups of samples.
    """

    def __init__(self, task: HeldTask, sampling: Sampling, *, metric: Metric | str = "nll") -> None:
        self._metric = Metric.of(metric)
        if self._metric.num_groups:
            message = (
                "allocation='adaptive' is for metrics of the samples of each example, such as nll and gibbs, got "
                f"{self._metric.name!r}; use allocation='even'"
            )
            raise InvalidInputError(message)
        self._task = task
        # Within a stratum, all examples have equally many samples.
        self._sampling = replace(sampling, options=sampling.options.model_copy(update={"allocation": "even"}))

    def pilot(self, posterior: Posterior) -> LossEstimate:
        """Return the loss from a few samples that are used for nothing but an allocation.

        Args:
            posterior: A distribution over the model's parameters.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If examples share their noise, or `predict` refuses.
        """
        found = self._predict(posterior, self._task.batches, LEAST_SAMPLES, stream=-1)
        if not found.independent:
            message = (
                "allocation='adaptive' needs noise that belongs to one example: independent Gaussians over dense "
                f"layers (or method='local'); got a {posterior.kind!r} posterior over other layers, or of another "
                "kind. Take allocation='even'"
            )
            raise InvalidInputError(message)
        estimate = LossEstimate.of(found, metric=self._metric, contrasts=1)
        if estimate.bias_errors is None:
            return estimate
        # Of a log mean over two pairs, the contrast is half the difference of their logs, which knows no bounds: an
        # example whose likelihood is from one pair alone would take all samples. That of their shares is within one.
        return replace(estimate, sample_influence=estimate.sample_influence.tanh())

    def allocate(self, errors: Tensor, losses: Tensor) -> Allocation:
        """Return the allocation that pilots suggest.

        Args:
            errors: ``[N]``: as for `Allocation.of`.
            losses: ``[N]``: as for `Allocation.of`.

        Returns:
            The allocation.

        Raises:
            InvalidInputError: If there are too few samples to share out.
        """
        return Allocation.of(errors, losses, self._task.batches, self._sampling.num_samples)

    def predictions(self, posterior: Posterior, allocation: Allocation) -> Predictions:
        """Return what a posterior predicts.

        Args:
            posterior: A distribution over the model's parameters.
            allocation: How many samples every example gets.

        Returns:
            The predictions, examples in their order, with those of every stratum.

        Raises:
            InvalidInputError: As `predict`.
        """
        parts = [
            self._predict(posterior, stratum.batches, stratum.num_samples, stream=number)
            for number, stratum in enumerate(allocation.strata)
        ]
        order = torch.cat([stratum.rows for stratum in allocation.strata]).argsort()
        least = min(len(part.log_prob) for part in parts)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])[order]

        return Predictions(
            log_prob=torch.cat([part.log_prob[:least] for part in parts], 1)[:, order],
            prediction=joined("prediction"),
            score=joined("score"),
            score_name=self._task.likelihood.score_name,
            targets=joined("targets"),
            entropy=joined("entropy"),
            paired=parts[0].paired,
            independent=True,
            parts=tuple(zip(allocation.strata, parts, strict=True)),
        )

    def _predict(
        self, posterior: Posterior, batches: Sequence[tuple[Tensor, Tensor]], num_samples: int, *, stream: int
    ) -> Predictions:
        """Return predictions with noise of a stream that has nothing in common with the others."""
        seed = (self._sampling.seed + stream * 0x9E3779B97F4A7C15) % 2**63
        sampling = replace(self._sampling, num_samples=num_samples, seed=seed)
        return predict(posterior, replace(self._task, batches=batches), sampling)
