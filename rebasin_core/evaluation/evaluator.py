"""Predictions and losses of several posteriors on the same data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.networks import EvaluationOptions, Sampling
from rebasin_core.evaluation.predictive import HeldTask, predict
from rebasin_core.evaluation.stratified import StratifiedPredictor

if TYPE_CHECKING:
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior


@final
class Evaluator:
    """Evaluator of posteriors over the parameters of one model, on the same data and with the same noise.

    Use it to compare several posteriors, such as candidates of a search or points on a path: with common random
    numbers, most Monte Carlo error cancels in differences of their losses. For one posterior, use `score`.

    Args:
        task: The model, the data and the likelihood; the data are iterated once and held in memory.
        like: A posterior on the device and in the dtype of all posteriors to evaluate.
        num_samples: Number of posterior samples, at least 1; not used for single networks.
        seed: Seed of the noise.
        options: How the sampled networks are evaluated; the defaults of `EvaluationOptions` if None.
        adjust: Adjusts the tensors of each sampled network (see `Sampling`); None for no adjustment.

    Raises:
        InvalidInputError: If there are no data.
    """

    def __init__(
        self,
        task: Task,
        like: Posterior,
        *,
        num_samples: int = 1,
        seed: int = 0,
        options: EvaluationOptions | None = None,
        adjust: Adjust | None = None,
    ) -> None:
        self._task = HeldTask.of(task, like)
        self._sampling = Sampling(num_samples, seed, options or EvaluationOptions(), adjust)

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of the task."""
        return self._task.likelihood

    def predictions(self, posterior: Posterior, *, groups: int = 0, keep_outputs: bool = False) -> Predictions:
        """Return the predictions of a posterior.

        Args:
            posterior: The posterior.
            groups: As for `predict`.
            keep_outputs: As for `predict`.

        Returns:
            The predictions.

        Raises:
            InvalidInputError: If the posterior does not match the model, or the outputs do not match the targets.
        """
        is_point = posterior.is_point
        if self._sampling.options.allocation == "adaptive" and not is_point:
            if groups or keep_outputs or self._sampling.adjust is not None:
                message = (
                    "allocation='adaptive' cannot be combined with groups of samples, kept outputs or adjusted "
                    "networks; use allocation='even'"
                )
                raise InvalidInputError(message)
            return self._adaptive(posterior)
        sampling = replace(self._sampling, num_samples=1) if is_point else self._sampling
        return predict(posterior, self._task, sampling, groups=groups, keep_outputs=keep_outputs)

    def _adaptive(self, posterior: Posterior) -> Predictions:
        """Return predictions with samples allocated by a pilot."""
        stratified = StratifiedPredictor(self._task, self._sampling)
        pilot = stratified.pilot(posterior)
        return stratified.predictions(posterior, stratified.allocate(pilot.sample_influence, pilot.example_losses))

    def loss(
        self,
        posterior: Posterior,
        *,
        where: str = "the posterior",
        metric: Metric | str = "nll",
        groups: int | None = None,
    ) -> LossEstimate:
        """Return the loss, or another metric, of a posterior.

        Args:
            posterior: The posterior.
            where: Role of the posterior, for messages.
            metric: Metric to estimate, as for `LossEstimate.of`.
            groups: Number of groups of samples; the number that the metric needs if None. With 1, the estimate has no
                standard error.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite, or the posterior does not match the model.
        """
        metric = Metric.of(metric)
        predictions = self.predictions(posterior, groups=metric.num_groups if groups is None else groups)
        return LossEstimate.of(predictions, where=where, metric=metric)
