"""The interface of barrier estimators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.posteriors.checks import require_same_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from rebasin_core.barriers.adjustment import PathAdjustment
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.predictive import Batches
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class BarrierProblem:
    """What a barrier estimator is asked to estimate, already checked.

    Attributes:
        reference: The posterior at 0.
        candidate: The posterior at 1, on the device and in the dtype of the reference.
        model: The network, a private copy.
        batches: The data, on the same device.
        likelihood: Scores outputs against targets.
        seed: Seed of the noise that all places share.
        progress: Whether to show a progress bar.
        calibration: Data from which normalisation statistics or activations are taken; on the same device.
        adjustment: What is done to the networks on the path before they are measured; None for nothing.
    """

    reference: Posterior
    candidate: Posterior
    model: FunctionalModel
    batches: Sequence[tuple[Tensor, Tensor]]
    likelihood: Likelihood
    seed: int
    progress: bool
    calibration: Sequence[tuple[Tensor, Tensor]]
    adjustment: PathAdjustment | None = None

    def adjusted(self, adjustment: PathAdjustment) -> BarrierProblem:
        """Return the problem with another adjustment.

        Args:
            adjustment: Takes the place of the present one.

        Returns:
            The new problem.
        """
        return replace(self, adjustment=adjustment)


class BarrierEstimator(ABC):
    """Estimates the loss along a path between two posteriors.

    Laws:
        - *Equal ends*: between a posterior and itself the loss is the same everywhere and the barrier is zero.
        - *Ends are ends*: the losses at 0 and 1 are those of the two posteriors, whatever lies between.
        - *Direction*: exchanging the ends mirrors the curve, up to the stated errors.
        - *Errors stated*: every number that rests on random samples comes with its standard error.
        - *Inputs untouched*: posteriors, model (its mode included) and data are not changed.
        - *Repeatable*: equal generators in equal states give equal curves.
    """

    @final
    def estimate(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
        self,
        reference: Posterior,
        candidate: Posterior,
        *,
        model: nn.Module,
        data: Batches,
        likelihood: Likelihood | str = "categorical",
        calibration: Batches | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> LossCurve:
        """Return the loss curve from the reference to the candidate.

        Args:
            reference: The posterior at 0; sets device and dtype.
            candidate: The posterior at 1.
            model: The network.
            data: Any iterable of ``(inputs, targets)`` batches; read once and held in memory meanwhile.
            likelihood: An instance, ``categorical`` or ``gaussian``.
            calibration: Data for estimators that take normalisation statistics or activations: training data. The data
                themselves if not given.
            generator: Source of randomness; a fixed seed if not given.
            progress: Whether to show a progress bar.

        Returns:
            The curve, with the barrier on it.

        Raises:
            InvalidInputError: If the posteriors, the model and the data do not fit each other, or a loss is not finite.
        """
        require_same_tensors(reference.mean, candidate.mean, "the candidate")
        generator = generator or torch.Generator().manual_seed(0)
        functional = FunctionalModel(model, device=reference.device, dtype=reference.dtype)
        for posterior, what in ((reference, "the reference"), (candidate, "the candidate")):
            functional.check({**posterior.mean, **posterior.buffers}, what)
        batches = held_batches(functional, data)
        problem = BarrierProblem(
            reference=reference,
            candidate=candidate.to(device=reference.device, dtype=reference.dtype),
            model=functional,
            batches=batches,
            likelihood=Likelihood.of(likelihood),
            seed=int(torch.randint(2**62, (), generator=generator, device=generator.device).item()),
            progress=progress,
            calibration=batches if calibration is None else held_batches(functional, calibration),
        )
        return self.solve(problem)

    @final
    def solve(self, problem: BarrierProblem) -> LossCurve:
        """Return the curve of a checked problem: for estimators around estimators.

        Args:
            problem: As `estimate` makes it.

        Returns:
            The curve.

        Raises:
            InvalidInputError: If a loss is not finite, or the estimator cannot be used on it.
        """
        with torch.no_grad():
            return self._estimate(problem)

    @abstractmethod
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        """Estimate the curve of a checked problem."""
