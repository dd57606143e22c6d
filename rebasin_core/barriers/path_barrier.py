"""Estimators that measure a loss along a path, point by point."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Self, final

from pydantic import Field, PositiveFloat
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.chord import excess_over_chord
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.paths.auto import AutoPath
from rebasin_core.barriers.paths.base import Path
from rebasin_core.barriers.refine import NumPoints, path_grid, refine_maximum
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.baseline import constant_loss
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.metrics import NLLMetric
from rebasin_core.evaluation.networks import EvaluationOptions, SampledNetworks, Sampling
from rebasin_core.evaluation.predictive import predict
from rebasin_core.evaluation.stratified import StratifiedPredictor
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.adjustment import Endpoints
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior


class AbstractPathBarrier(BarrierEstimator):
    """Measures a metric along a path of posteriors.

    Raises:
        ConfigError: If an option is invalid.
    """

    num_points: NumPoints = 11
    """Number of points on the path, endpoints included: odd, at least 3."""

    path: Path = AutoPath()
    """The path between the endpoints; by default the 2-Wasserstein geodesic where it is known."""

    tolerance: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """If given, points are added around the maximum until, by parabolic interpolation, the height is within this
    tolerance of the true maximum, in units of the metric."""

    metric: Metric = NLLMetric()
    """The metric that is measured; the predictive loss by default."""

    evaluation: EvaluationOptions = EvaluationOptions()
    """How networks are run."""

    @property
    def _draws(self) -> int:
        """Number of posterior samples at each point; 1 if nothing is random."""
        return 1

    @abstractmethod
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        """Return the path: the posterior at each t."""

    @final
    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        point = self._path(problem)
        adaptive = self.evaluation.allocation == "adaptive"
        predictions = self._adaptive(problem, point) if adaptive else self._even(problem, point)
        bar = tqdm(total=self.num_points, desc="path", unit="point", leave=False, disable=not problem.progress)

        def evaluate(t: float) -> LossEstimate:
            found = predictions(t, point(t))
            bar.update()
            return LossEstimate.of(found, where=f"t = {t:g} of the path", metric=self.metric)

        with bar:
            order, estimates = refine_maximum(evaluate, path_grid(self.num_points), self.tolerance)
        random = self._draws > 1 and not all(estimate.is_point for estimate in estimates)
        reference = problem.reference
        baseline = constant_loss(problem.task, {**reference.mean, **reference.buffers}, self.metric)
        return LossCurve.of(order, estimates, random=random, metric=self.metric, baseline=baseline)

    def _even(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return a function that predicts at t with equally many samples of all examples."""
        endpoints = self._endpoints(problem, point)

        def predictions(t: float, here: Posterior) -> Predictions:
            adjust = _adjust(problem, t, here, endpoints)
            sampling = Sampling(self._draws, problem.seed, self.evaluation, adjust)
            return predict(here, problem.task, sampling, groups=self.metric.num_groups)

        return predictions

    def _adaptive(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return a function that predicts at t with the samples allocated to estimate the excess at the midpoint."""
        if problem.adjustment is not None:
            message = "allocation='adaptive' is not for networks that are reset or repaired; use allocation='even'"
            raise InvalidInputError(message)
        sampling = Sampling(self._draws, problem.seed, self.evaluation)
        stratified = StratifiedPredictor(problem.task, sampling, metric=self.metric)
        first = stratified.pilot(point(0.0))
        middle = stratified.pilot(point(0.5))
        last = stratified.pilot(point(1.0))
        errors = excess_over_chord("sample_influence", 0.5, middle, first, last)
        allocation = stratified.allocate(errors, middle.example_losses)
        return lambda _, here: stratified.predictions(here, allocation)

    def _endpoints(self, problem: BarrierProblem, point: Callable[[float], Posterior]) -> Endpoints | None:
        """Return the networks sampled at each endpoint, in the order in which the path pairs them, for adjustments."""
        if problem.adjustment is None:
            return None
        return self._sampled(problem, point(0.0)), self._sampled(problem, point(1.0))

    def _sampled(self, problem: BarrierProblem, end: Posterior) -> SampledNetworks:
        return SampledNetworks(end, self._draws, problem.seed, antithetic=bool(self.evaluation.antithetic))


class AbstractNetworkBarrier(AbstractPathBarrier):
    """Measures a metric along a path of single networks, on which nothing is random."""

    num_points: NumPoints = 25
    """Number of points on the path, endpoints included: odd, at least 3."""

    @final
    @override
    def with_options(self, **options: object) -> Self:
        # One network at each point needs no samples, however many are asked for.
        return super().with_options(**{name: value for name, value in options.items() if name != "num_samples"})

    def _networks(self, problem: BarrierProblem) -> Callable[[float], PointPosterior]:
        """Return the path between the means of the endpoints: the mean of the path at each t."""
        reference = _mean(problem.reference)
        candidate = _mean(problem.candidate)
        path = self.path.between(reference, candidate, num_samples=1, seed=problem.seed)
        return lambda t: _mean(path(t))


def _mean(posterior: Posterior) -> PointPosterior:
    return PointPosterior(posterior.mean, buffers=posterior.buffers)


def _adjust(problem: BarrierProblem, t: float, point: Posterior, endpoints: Endpoints | None) -> Adjust | None:
    """Return the adjustment at t; the identity if the estimator adjusts other points but not this one.

    All points are then measured by the same method, with the same noise.
    """
    if problem.adjustment is None or endpoints is None:
        return None
    return problem.adjustment.at(t, point, endpoints) or (lambda tensors, _: tensors)
