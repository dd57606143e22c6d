"""The predictions and losses of many posteriors on the same data."""

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
    """Runs posteriors over one model's parameters on data that are held, all with the same noise.

    Args:
        task: The model, the data and the likelihood.
        like: A posterior on the device and in the dtype of all that will be evaluated.
        num_samples: Networks drawn of each posterior; of a point, one.
        seed: Seed of the noise.
        options: How networks are run.
        adjust: Changes the tensors of every network that is run, as for `predict`.

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
        """Return what a posterior predicts.

        Args:
            posterior: The posterior.
            groups: As for `predict`.
            keep_outputs: As for `predict`.

        Returns:
            The predictions.

        Raises:
            InvalidInputError: If the posterior does not fit the model, or the outputs do not fit the targets.
        """
        point = posterior.is_point
        if self._sampling.options.allocation == "adaptive" and not point:
            if groups or keep_outputs or self._sampling.adjust is not None:
                message = (
                    "allocation='adaptive' gives examples different numbers of samples, so that there are no groups of "
                    "samples, no outputs of every network, and nothing that adjusts networks; take allocation='even'"
                )
                raise InvalidInputError(message)
            return self._allocated(posterior)
        sampling = replace(self._sampling, num_samples=1) if point else self._sampling
        return predict(posterior, self._task, sampling, groups=groups, keep_outputs=keep_outputs)

    def _allocated(self, posterior: Posterior) -> Predictions:
        """Return predictions with more samples for the examples that need them."""
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
        """Return the loss of a posterior, or a metric in its place.

        Args:
            posterior: The posterior.
            where: The posterior's role, for messages.
            metric: As for `LossEstimate.of`.
            groups: As for `predict`; as many as the metric needs if not given. One is enough for the value alone.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite, or the posterior does not fit.
        """
        metric = Metric.of(metric)
        predictions = self.predictions(posterior, groups=metric.num_groups if groups is None else groups)
        return LossEstimate.of(predictions, where=where, metric=metric)
