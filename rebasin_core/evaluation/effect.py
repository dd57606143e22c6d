"""The effect of an alignment on the loss at the midpoint between two networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.baseline import constant_loss
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.evaluation.predictive import HeldTask
from rebasin_core.evaluation.task import Task
from rebasin_core.posteriors.barycenters import barycenter_or_moments
from rebasin_core.symmetry.permutation import GroupElement
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.loss import LossEstimate
    from rebasin_core.posteriors.base import Posterior

Keep: TypeAlias = Literal["best", "aligned"]
"""Which permutation to return if there are data: ``"best"`` of the result and the identity, or always the result."""

_NUM_SAMPLES = 16
# Losses whose relative difference is at most this are equal up to rounding in single precision.
_ROUNDING = 1e-6


@final
@dataclass(frozen=True, slots=True)
class AlignmentEffect:
    """Loss at the midpoint between a reference and a candidate, before and after an alignment.

    The midpoint is the 2-Wasserstein barycenter of the two posteriors with equal weights; for single networks, their
    mean. Batch-normalization statistics are recomputed at the midpoint. Losses are in nats per example, on the
    calibration data of the task. Posterior samples use the same noise for all losses.

    Attributes:
        unaligned: Loss at the midpoint before alignment.
        aligned: Loss at the midpoint after alignment.
        difference_stderr: Standard error of ``aligned - unaligned`` from the finite dataset, paired over examples.
        unaligned_score: Mean score at the midpoint (such as accuracy or mean squared error) before alignment.
        aligned_score: Mean score at the midpoint after alignment.
        score_name: Name of the score.
        reference: Loss of the reference.
        candidate: Loss of the candidate.
        baseline: Loss of the best constant prediction (`Likelihood.constant`; for classification, the class
            frequencies); NaN if unknown.
    """

    unaligned: float
    aligned: float
    difference_stderr: float
    unaligned_score: float
    aligned_score: float
    score_name: str
    reference: float
    candidate: float
    baseline: float

    @property
    def helped(self) -> bool:
        """Whether the alignment lowered the loss at the midpoint, by more than rounding."""
        return self.aligned < self.unaligned and not self._is_rounding

    @property
    def harmed(self) -> bool:
        """Whether the alignment raised the loss at the midpoint, by more than rounding."""
        return self.aligned > self.unaligned and not self._is_rounding

    @property
    def _is_rounding(self) -> bool:
        return math.isclose(self.aligned, self.unaligned, rel_tol=_ROUNDING)

    @property
    def is_meaningful(self) -> bool:
        """Whether both networks are better than the baseline; if not, their losses are not informative."""
        return not max(self.reference, self.candidate) >= self.baseline

    @override
    def __str__(self) -> str:
        """Return losses and scores before and after alignment, and the losses of the networks."""
        text = (
            f"loss at the midpoint {self.unaligned:.4f} unaligned, {self.aligned:.4f} aligned (difference "
            f"{self.aligned - self.unaligned:+.4f} ± {self.difference_stderr:.4f}), {self.score_name} "
            f"{self.unaligned_score:.4f} and {self.aligned_score:.4f}; the networks' own losses are "
            f"{self.reference:.4f} and {self.candidate:.4f}"
        )
        if self.is_meaningful:
            return text
        return (
            f"{text}, not both better than the best prediction that ignores the inputs ({self.baseline:.4f}): check "
            "the data and their preprocessing"
        )


@final
class MidpointEvaluator:
    """Estimator of the loss at the midpoint of a reference and a candidate, for any permutation or other group element.

    Args:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1.
        task: The model, the likelihood and the data; the calibration data are used, if there are any.
        num_samples: Number of posterior samples, at least 1; not used for single networks.

    Raises:
        InvalidInputError: If there are no data.
    """

    def __init__(
        self, reference: Posterior, candidate: Posterior, task: Task, *, num_samples: int = _NUM_SAMPLES
    ) -> None:
        self._reference = reference
        self._candidate = candidate.to(device=reference.device, dtype=reference.dtype)
        data = list(task.fitting_data)
        statistics = BatchStatistics(task.model, device=reference.device, dtype=reference.dtype)

        def reset(tensors: Mapping[str, Tensor], _: int) -> Mapping[str, Tensor]:
            return {**tensors, **statistics.at(tensors, data)}

        own = Task(task.model, data, task.likelihood)
        self._plain = Evaluator(own, reference, num_samples=num_samples)
        self._midpoint = Evaluator(own, reference, num_samples=num_samples, adjust=reset) if statistics else self._plain
        self._task = own

    def estimate(self, alignment: GroupElement | Posterior | None = None) -> LossEstimate:
        """Return the loss at the midpoint.

        Args:
            alignment: Permutation, or another group element, to apply to the candidate; or the aligned candidate. The
                candidate itself if None.

        Returns:
            The estimate; all estimates use the same noise.
        """
        aligned = self._candidate
        if isinstance(alignment, GroupElement):
            aligned = alignment.apply(aligned)
        elif alignment is not None:
            aligned = alignment.to(device=aligned.device, dtype=aligned.dtype)
        midpoint, _ = barycenter_or_moments([self._reference, aligned])
        return self._midpoint.loss(midpoint, where="the midpoint")

    def effect(self, alignment: GroupElement | Posterior) -> AlignmentEffect:
        """Return the effect of an alignment on the loss at the midpoint.

        Args:
            alignment: Permutation, or another group element, to apply to the candidate; or the aligned candidate.

        Returns:
            The losses and scores before and after.
        """
        before = self.estimate()
        is_identity = isinstance(alignment, GroupElement) and alignment.is_identity
        after = before if is_identity else self.estimate(alignment)
        endpoints = [
            self._plain.loss(q, where=w)
            for q, w in ((self._reference, "the reference"), (self._candidate, "the candidate"))
        ]
        tensors = {**self._reference.mean, **self._reference.buffers}
        return AlignmentEffect(
            unaligned=before.loss,
            aligned=after.loss,
            difference_stderr=mean_stderr(after.example_losses - before.example_losses).item(),
            unaligned_score=before.score,
            aligned_score=after.score,
            score_name=before.score_name,
            reference=endpoints[0].loss,
            candidate=endpoints[1].loss,
            baseline=constant_loss(HeldTask.of(self._task, self._reference), tensors),
        )


def effect_of(
    alignment: GroupElement | Posterior, reference: Posterior, candidate: Posterior, task: Task
) -> AlignmentEffect | None:
    """Return the effect of an alignment on the loss at the midpoint, if the data allow it to be estimated.

    Args:
        alignment: Permutation, or another group element, to apply to the candidate; or the aligned candidate.
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1, not aligned.
        task: The model, the likelihood, and data that can be iterated repeatedly.

    Returns:
        The losses before and after. None if outputs and targets do not match the likelihood (for example, if the
        targets are placeholders), or a loss is not finite.
    """
    try:
        return MidpointEvaluator(reference, candidate, task).effect(alignment)
    except InvalidInputError:
        return None
