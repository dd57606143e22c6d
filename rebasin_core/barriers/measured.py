"""Estimators that measure a loss along a path, place by place."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.curve import LossCurve, excess_over_chord
from rebasin_core.barriers.path import places
from rebasin_core.barriers.placing import located, require_tolerance
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.networks import DrawnNetworks, EvaluationOptions
from rebasin_core.evaluation.predictive import predict
from rebasin_core.evaluation.stratified import StratifiedPredictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.adjustment import Ends
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior


class AbstractPathBarrier(BarrierEstimator):
    """Measures a metric of the predictive along a path of posteriors.

    Args:
        num_points: Number of places, ends included: odd, at least 3.
        num_samples: Number of samples at each place; 1 says that nothing is random.
        tolerance: If given, further places are added around the highest one until the height is within this many units
            of the metric of the true maximum, as a parabola sees it.
        metric: ``nll`` (of the predictive), ``gibbs`` (mean loss of one network), or a metric of the averaged
            prediction: ``error``, ``brier``, ``squared_error``.
        evaluation: How networks are run.

    Raises:
        InvalidInputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        num_points: int,
        num_samples: int,
        tolerance: float | None,
        metric: Metric | str,
        evaluation: EvaluationOptions | None,
    ) -> None:
        self._places = places(num_points)
        require_tolerance(tolerance)
        self._num_samples, self._tolerance, self._metric = num_samples, tolerance, Metric.of(metric)
        self._evaluation = evaluation or EvaluationOptions()

    @abstractmethod
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        """Return the path: the posterior at each place."""

    @final
    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        point, random = self._path(problem), self._num_samples > 1
        adaptive = self._evaluation.allocation == "adaptive"
        predictions = (self._adaptive if adaptive else self._even)(problem, point)
        bar = tqdm(total=len(self._places), desc="path", unit="place", leave=False, disable=not problem.progress)

        def evaluate(t: float) -> LossEstimate:
            found = predictions(t, point(t))
            bar.update()
            return LossEstimate.of(found, where=f"t = {t:g} of the path", metric=self._metric)

        with bar:
            order, estimates = located(evaluate, self._places, self._tolerance)
        return LossCurve.of(order, estimates, random=random, metric=self._metric)

    def _even(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return what predicts at a place, with equally many samples of all examples."""
        ends = self._ends(problem, point)

        def predictions(t: float, here: Posterior) -> Predictions:
            return predict(
                here,
                problem.model,
                problem.batches,
                problem.likelihood,
                num_samples=self._num_samples,
                seed=problem.seed,
                options=self._evaluation,
                adjust=_adjust(problem, t, here, ends),
                groups=self._metric.num_groups,
            )

        return predictions

    def _adaptive(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return what predicts at a place, with the samples that suit the height half-way."""
        if problem.adjustment is not None:
            message = "allocation='adaptive' is not for networks that are reset or repaired; take allocation='even'"
            raise InvalidInputError(message)
        stratified = StratifiedPredictor(
            problem.model,
            problem.batches,
            problem.likelihood,
            num_samples=self._num_samples,
            seed=problem.seed,
            options=self._evaluation,
            metric=self._metric,
        )
        first, middle, last = (stratified.pilot(point(t)) for t in (0.0, 0.5, 1.0))
        errors = excess_over_chord("sample_influence", 0.5, middle, first, last)
        allocation = stratified.allocate(errors, middle.example_losses)
        return lambda _, here: stratified.predictions(here, allocation)

    def _ends(self, problem: BarrierProblem, point: Callable[[float], Posterior]) -> Ends | None:
        """Return the networks drawn at each end, in the order in which the path pairs them; None if nobody asks."""
        if problem.adjustment is None:
            return None
        opposite = bool(self._evaluation.antithetic)
        first, second = (
            DrawnNetworks(point(t), self._num_samples, problem.seed, antithetic=opposite) for t in (0.0, 1.0)
        )
        return first, second


def _adjust(problem: BarrierProblem, t: float, point: Posterior, ends: Ends | None) -> Adjust | None:
    """Return what is done to networks at a place; where only this place is left alone, something that does nothing.

    So that all places are measured by the same method, with the same noise.
    """
    if problem.adjustment is None or ends is None:
        return None
    return problem.adjustment.at(t, point, ends) or (lambda tensors, _: tensors)
