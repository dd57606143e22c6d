"""The interface of barrier estimators."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self, final

import torch

from rebasin_core.barriers.notes import warn_of
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.predictive import HeldTask, held_batches
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.noise import random_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.barriers.adjustment import PathAdjustment, PathCalibration
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.networks import Sampling
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class BarrierProblem:
    """A checked problem for a barrier estimator.

    Attributes:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1, on the device and in the dtype of the reference.
        task: The model, the data on the same device, and the likelihood.
        seed: Seed of the noise that all points on the path share.
        progress: Whether to show a progress bar.
        calibration: Data on which normalization statistics and activations are computed, on the same device.
        adjustment: Adjusts the networks on the path before they are measured; None for no adjustment.
        path_calibration: Gives the likelihood at each point of the path; that of the task if None.
    """

    reference: Posterior
    candidate: Posterior
    task: HeldTask
    seed: int
    progress: bool
    calibration: Sequence[Batch]
    adjustment: PathAdjustment | None = None
    path_calibration: PathCalibration | None = None

    def adjusted(self, adjustment: PathAdjustment) -> BarrierProblem:
        """Return the problem with another adjustment.

        Args:
            adjustment: The new adjustment.

        Returns:
            A copy of the problem with this adjustment.
        """
        return replace(self, adjustment=adjustment)

    def calibrated(self, path_calibration: PathCalibration) -> BarrierProblem:
        """Return the problem with a likelihood for each point of the path.

        Args:
            path_calibration: Gives the likelihoods.

        Returns:
            A copy of the problem.
        """
        return replace(self, path_calibration=path_calibration)

    def task_at(self, t: float, posterior: Posterior, sampling: Sampling) -> HeldTask:
        """Return the task with the likelihood at a point of the path.

        Args:
            t: The interpolation coefficient, in [0, 1].
            posterior: The posterior at t.
            sampling: Number and seed of its samples, and how they are adjusted.

        Returns:
            The task.
        """
        if self.path_calibration is None:
            return self.task
        return replace(self.task, likelihood=self.path_calibration.at(t, posterior, sampling))


class BarrierEstimator(Strategy):
    """Estimates the loss along a path between two posteriors.

    Laws:
        - *Equal endpoints*: between a posterior and itself the loss is the same at every t and the barrier is zero.
        - *Endpoints*: the losses at t = 0 and t = 1 are those of the two posteriors.
        - *Reversal*: exchanging the posteriors maps t to 1 - t, up to the stated errors.
        - *Calibration*: with ``uses_calibration = False``, the calibration data do not change the curve.
        - *Errors stated*: every Monte Carlo estimate has a standard error.
        - *No side effects*: posteriors, model (including its mode) and data are not changed.
        - *Reproducibility*: generators in equal states give equal curves.
    """

    family: ClassVar[str] = "barrier"

    @property
    def uses_calibration(self) -> bool:
        """Whether the curve depends on the calibration data. If not, curves are reused when these data change."""
        return True

    def with_options(self, **options: object) -> Self:
        """Return this estimator with some options changed. A wrapper passes them on to the estimator that it wraps.

        Args:
            **options: Options by name, such as ``num_points=5``.

        Returns:
            The new estimator.

        Raises:
            ConfigError: If an option is unknown or out of range.

        Examples:
            >>> from rebasin_core.barriers import MarginalizedBarrier, RepairBarrier
            >>> RepairBarrier(estimator=MarginalizedBarrier(num_samples=8)).with_options(num_points=5)
            RepairBarrier(estimator=MarginalizedBarrier(num_points=5, num_samples=8))
        """
        present = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**present, **options})

    def of_means(self) -> BarrierEstimator | None:  # ruff: ignore[no-self-use] - overridden by estimators that have one
        """Return the estimator of the barrier between the posterior means, to be compared with this one.

        Returns:
            An estimator for single networks; None if this estimator is itself one, or has no such counterpart.
        """
        return None

    @final
    def estimate(
        self,
        reference: Posterior,
        candidate: Posterior,
        task: Task,
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> LossCurve:
        """Return the loss curve from the reference to the candidate.

        Args:
            reference: The posterior at t = 0; sets device and dtype.
            candidate: The posterior at t = 1.
            task: The model, data and likelihood. The data are iterated once and held in memory during the call.
                Normalization statistics and activations are computed on the calibration data of the task.
            generator: Random number generator; seeded with 0 if None.
            progress: Whether to show a progress bar.

        Returns:
            The loss curve; its ``height`` is the barrier. Its `LossCurve.notes` are also issued as warnings
            (`errors.MeasurementWarning`).

        Raises:
            InvalidInputError: If the posteriors, the model and the data do not match, or a loss is not finite.
        """
        problem = self._problem(reference, candidate, task, generator=generator, progress=progress)
        curve = self.solve(problem)
        warn_of(curve.notes, stacklevel=2)
        return curve

    @final
    def _problem(  # ruff: ignore[no-self-use] - called on the estimator by its subclasses
        self,
        reference: Posterior,
        candidate: Posterior,
        task: Task,
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> BarrierProblem:
        """Return the checked problem; the arguments are those of `estimate`."""
        require_same_tensors(reference.mean, candidate.mean, "the candidate")
        generator = generator or torch.Generator().manual_seed(0)
        functional = FunctionalModel(task.model, device=reference.device, dtype=reference.dtype)
        for posterior, role in ((reference, "the reference"), (candidate, "the candidate")):
            functional.check({**posterior.mean, **posterior.buffers}, role)
        batches = held_batches(functional, task.data)
        return BarrierProblem(
            reference=reference,
            candidate=candidate.to(device=reference.device, dtype=reference.dtype),
            task=HeldTask(functional, batches, Likelihood.of(task.likelihood)),
            seed=random_seed(generator),
            progress=progress,
            calibration=batches if task.calibration is None else held_batches(functional, task.calibration),
        )

    @final
    def solve(self, problem: BarrierProblem) -> LossCurve:
        """Return the loss curve of a checked problem; called by estimators that wrap this one.

        Args:
            problem: A problem as constructed by `estimate`.

        Returns:
            The curve.

        Raises:
            InvalidInputError: If a loss is not finite, or the estimator is not applicable to the problem.
        """
        with torch.no_grad():
            return self._estimate(problem)

    @abstractmethod
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        """Estimate the loss curve of a validated problem.

        Args:
            problem: Two posteriors, the task, and the options of the call.

        Returns:
            The losses on a grid of t in [0, 1], with their standard errors.
        """
