"""What an alignment does to the loss at the midpoint between two networks."""

from __future__ import annotations

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
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.loss import LossEstimate
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.permutation import Permutation

Keep: TypeAlias = Literal["best", "aligned"]
"""Which alignment is returned where data are given: the better one of the identity and the one found, or that found."""

_SAMPLES = 16


@final
@dataclass(frozen=True, slots=True)
class AlignmentEffect:
    """The loss at the midpoint between a reference and a candidate, before and after an alignment.

    The midpoint is the 2-Wasserstein barycenter of both with equal weights: of single networks, their mean. Batch
    normalization statistics are recomputed there. Losses are in nats per example, on the data that alignments are
    fitted to; distributions are sampled with the same noise each time.

    Attributes:
        unaligned: The loss at the midpoint, the candidate as it is.
        aligned: The loss at the midpoint, the candidate aligned.
        difference_stderr: Standard error of ``aligned - unaligned`` from the finite number of examples.
        unaligned_score: The mean score at the midpoint (accuracy, or mean squared error), the candidate as it is.
        aligned_score: The same, the candidate aligned.
        score_name: The name of the score.
        reference: The loss of the reference.
        candidate: The loss of the candidate.
        baseline: The loss of the best prediction that is the same for all examples (`Likelihood.constant`; for classes,
            their frequencies), NaN if it is not known.
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
        """Whether the alignment lowered the loss at the midpoint."""
        return self.aligned < self.unaligned

    @property
    def harmed(self) -> bool:
        """Whether the alignment raised the loss at the midpoint."""
        return self.aligned > self.unaligned

    @property
    def is_meaningful(self) -> bool:
        """Whether both networks are better on these data than the baseline; otherwise losses mean little."""
        return not max(self.reference, self.candidate) >= self.baseline

    @override
    def __str__(self) -> str:
        """Return the losses and scores before and after, and those of the networks."""
        text = (
            f"loss at the midpoint {self.unaligned:.4f} unaligned, {self.aligned:.4f} aligned (difference "
            f"{self.aligned - self.unaligned:+.4f} ± {self.difference_stderr:.4f}), {self.score_name} "
            f"{self.unaligned_score:.4f} and {self.aligned_score:.4f}; the networks' own losses are "
            f"{self.reference:.4f} and {self.candidate:.4f}"
        )
        if self.is_meaningful:
            return text
        return (
            f"{text}, not both better than the best prediction that ignores the inputs ({self.baseline:.4f}): look at "
            "the data and their preprocessing"
        )


@final
class MidpointEvaluator:
    """Measures the loss at the midpoint between a reference and a candidate, for any permutation of the candidate.

    Args:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1.
        task: The model, the likelihood, and data, of which the calibration data are used.
        num_samples: Samples of distributions.

    Raises:
        InvalidInputError: If there are no data.
    """

    def __init__(self, reference: Posterior, candidate: Posterior, task: Task, *, num_samples: int = _SAMPLES) -> None:
        self._reference = reference
        self._candidate = candidate.to(device=reference.device, dtype=reference.dtype)
        data = list(task.fitting_data)
        statistics = BatchStatistics(task.model, device=reference.device, dtype=reference.dtype)

        def renewed(tensors: Mapping[str, Tensor], _: int) -> Mapping[str, Tensor]:
            return {**tensors, **statistics.at(tensors, data)}

        own = Task(task.model, data, task.likelihood)
        self._plain = Evaluator(own, reference, num_samples=num_samples)
        self._middle = Evaluator(own, reference, num_samples=num_samples, adjust=renewed) if statistics else self._plain
        self._task = own

    def estimate(self, permutation: Permutation | None = None) -> LossEstimate:
        """Return the loss at the midpoint.

        Args:
            permutation: How the candidate is permuted; None leaves it as it is.

        Returns:
            The estimate, with the same noise each time.
        """
        moved = self._candidate if permutation is None else permutation.apply(self._candidate)
        middle, _ = barycenter_or_moments([self._reference, moved])
        return self._middle.loss(middle, where="the midpoint")

    def effect(self, permutation: Permutation) -> AlignmentEffect:
        """Return what a permutation does to the loss at the midpoint.

        Args:
            permutation: How the candidate is permuted.

        Returns:
            The losses and scores before and after.
        """
        before = self.estimate()
        after = before if permutation.is_identity else self.estimate(permutation)
        ends = [
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
            reference=ends[0].loss,
            candidate=ends[1].loss,
            baseline=constant_loss(HeldTask.of(self._task, self._reference), tensors),
        )


def effect_of(
    permutation: Permutation, reference: Posterior, candidate: Posterior, task: Task
) -> AlignmentEffect | None:
    """Return what a permutation does to the loss at the midpoint, None where the data cannot tell.

    Args:
        permutation: How the candidate is permuted.
        reference: The posterior that it is aligned with.
        candidate: The posterior as it is.
        task: The model, the likelihood and data that can be read again and again.

    Returns:
        The losses; None if outputs and targets do not fit the likelihood, as where data were given for their inputs
        alone, or a loss is not finite.
    """
    try:
        return MidpointEvaluator(reference, candidate, task).effect(permutation)
    except InvalidInputError:
        return None
