"""Estimators that evaluate a loss at the points of a path."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Self, final

from pydantic import Field, PositiveFloat
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.budget import FIRST_POINTS, ErrorGoal
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
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.adjustment import Endpoints
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior


class AbstractPathBarrier(BarrierEstimator):
    """Estimator of a metric along a path of posteriors.

    Raises:
        ConfigError: If an option is invalid.
    """

    num_points: NumPoints = 11
    """Number of points on the path, endpoints included: odd, at least 3."""

    path: Path = AutoPath()
    """Path between the endpoints; by default the 2-Wasserstein geodesic if it has a closed form (see `AutoPath`)."""

    tolerance: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """If given, points are added around the maximum until the height is within this tolerance, positive and in units
    of the metric, of the maximum predicted by parabolic interpolation."""

    error: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """Requested error of the barrier, positive and in units of the metric. If given, points and samples are added until
    the Monte Carlo error is at most this, or a quarter of the error from the finite dataset, starting with 3 points and
    16 samples. Samples are then drawn in antithetic pairs if the posteriors are Gaussian. Other numbers of points and
    samples have no effect."""

    relative_error: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """The same, divided by the barrier: 0.05 for five percent. If both are given, the smaller error is reached."""

    metric: Metric = NLLMetric()
    """Metric to estimate; the predictive loss by default."""

    evaluation: EvaluationOptions = EvaluationOptions()
    """How the sampled networks are evaluated."""

    @property
    def _draws(self) -> int:
        """Number of posterior samples at each point; 1 for single networks."""
        return 1

    @abstractmethod
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        """Return the path on which the loss is evaluated.

        Args:
            problem: Two posteriors, the task, and the options of the call.

        Returns:
            The function of t in [0, 1] that returns the posterior at t.
        """

    @final
    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        if self.error is None and self.relative_error is None:
            return self._estimate_on_grid(problem)
        evaluation = self.evaluation
        if self._draws > 1 and evaluation.antithetic is None and self._is_gaussian(problem):
            evaluation = evaluation.replace(antithetic=True)
        fixed = {"error": None, "relative_error": None, "num_points": FIRST_POINTS, "evaluation": evaluation}

        def estimate(num_samples: int, tolerance: float | None) -> LossCurve:
            return self.with_options(**fixed, num_samples=num_samples, tolerance=tolerance).solve(problem)

        return ErrorGoal(self.error, self.relative_error).reach(estimate)

    def _is_gaussian(self, problem: BarrierProblem) -> bool:
        """Return whether the posteriors on the path are Gaussian."""
        point = self._path(problem)
        return all(isinstance(point(t), AbstractGaussianPosterior) for t in (0.0, 0.5, 1.0))

    def _estimate_on_grid(self, problem: BarrierProblem) -> LossCurve:
        point = self._path(problem)
        adaptive = self.evaluation.allocation == "adaptive"
        predictions = self._adaptive(problem, point) if adaptive else self._even(problem, point)
        bar = tqdm(total=self.num_points, desc="path", unit="point", leave=False, disable=not problem.progress)

        def evaluate(t: float) -> LossEstimate:
            predicted = predictions(t, point(t))
            bar.update()
            return LossEstimate.of(predicted, where=f"t = {t:g} of the path", metric=self.metric)

        with bar:
            order, estimates = refine_maximum(evaluate, path_grid(self.num_points), self.tolerance)
        random = self._draws > 1 and not all(estimate.is_point for estimate in estimates)
        reference = problem.reference
        baseline = constant_loss(problem.task, {**reference.mean, **reference.buffers}, self.metric)
        return LossCurve.of(order, estimates, random=random, metric=self.metric, baseline=baseline)

    def _even(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return a function that predicts at t with the same number of samples for each example."""
        endpoints = self._endpoints(problem, point)

        def predictions(t: float, posterior: Posterior) -> Predictions:
            adjust = _adjust(problem, t, posterior, endpoints)
            sampling = Sampling(self._draws, problem.seed, self.evaluation, adjust)
            return predict(posterior, problem.task_at(t, posterior, sampling), sampling, groups=self.metric.num_groups)

        return predictions

    def _adaptive(
        self, problem: BarrierProblem, point: Callable[[float], Posterior]
    ) -> Callable[[float, Posterior], Predictions]:
        """Return a function that predicts with samples allocated to minimize the error of the midpoint's excess."""
        if problem.adjustment is not None or problem.path_calibration is not None:
            message = (
                "allocation='adaptive' cannot be combined with `reset`, `repair` or `calibrated`; use allocation='even'"
            )
            raise InvalidInputError(message)
        sampling = Sampling(self._draws, problem.seed, self.evaluation)
        stratified = StratifiedPredictor(problem.task, sampling, metric=self.metric)
        first = stratified.pilot(point(0.0))
        middle = stratified.pilot(point(0.5))
        last = stratified.pilot(point(1.0))
        errors = excess_over_chord("sample_influence", 0.5, middle, first, last)
        allocation = stratified.allocate(errors, middle.example_losses)
        return lambda _, posterior: stratified.predictions(posterior, allocation)

    def _endpoints(self, problem: BarrierProblem, point: Callable[[float], Posterior]) -> Endpoints | None:
        """Return the networks sampled at each endpoint, in the order in which the path pairs them."""
        if problem.adjustment is None:
            return None
        return self._sampled(problem, point(0.0)), self._sampled(problem, point(1.0))

    def _sampled(self, problem: BarrierProblem, endpoint: Posterior) -> SampledNetworks:
        return SampledNetworks(endpoint, self._draws, problem.seed, antithetic=bool(self.evaluation.antithetic))


class AbstractNetworkBarrier(AbstractPathBarrier):
    """Estimator of a metric along a path of single networks, without Monte Carlo error."""

    num_points: NumPoints = 25
    """Number of points on the path, endpoints included: odd, at least 3."""

    @final
    @override
    def with_options(self, **options: object) -> Self:
        # `num_samples` does not apply to single networks.
        return super().with_options(**{name: value for name, value in options.items() if name != "num_samples"})

    def _networks(self, problem: BarrierProblem) -> Callable[[float], PointPosterior]:
        """Return the mean, at each t, of the path between the endpoint means."""
        reference = _mean(problem.reference)
        candidate = _mean(problem.candidate)
        path = self.path.between(reference, candidate, num_samples=1, seed=problem.seed)
        return lambda t: _mean(path(t))


def _mean(posterior: Posterior) -> PointPosterior:
    return PointPosterior(posterior.mean, buffers=posterior.buffers)


def _adjust(problem: BarrierProblem, t: float, point: Posterior, endpoints: Endpoints | None) -> Adjust | None:
    """Return the adjustment at t; the identity if the estimator adjusts other points but not this one.

    The identity, rather than None, makes all points use the same evaluation method and the same noise.
    """
    if problem.adjustment is None or endpoints is None:
        return None
    return problem.adjustment.at(t, point, endpoints) or (lambda tensors, _: tensors)
