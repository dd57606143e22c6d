"""The loss at the midpoint between a reference and a permuted candidate, the objective of some matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.normalization import use_batch_statistics
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.posteriors.interpolation import interpolate_buffers
from rebasin_core.symmetry.symmetry_element import SymmetryElement, recentered
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.precision import widened, working_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.permutation import GroupElement
    from rebasin_core.tensors.inputs import AnyInputs


BY_LOSS = "minimizes the loss at the midpoint, for which a permuted copy of the reference need not be optimal"
"""Reason for which matchers that minimize the loss are exempt from laws about the distance of weights."""


@final
class MidpointLoss:
    """Loss of networks on the line between the reference and a permuted candidate.

    For distributions, means and standard deviations are interpolated linearly, and the loss is that of one posterior
    sample per evaluation. Batch normalization uses the statistics of the batch: with interpolated running statistics
    the loss is high for nearly all permutations, and does not predict the loss after a reset of the statistics.

    Args:
        problem: The matching problem, with a model and data.
        likelihood: Likelihood of the targets given the network's outputs.

    Raises:
        InvalidInputError: If the model or the data are missing.
    """

    def __init__(self, problem: MatchProblem, likelihood: Likelihood) -> None:
        if problem.model is None or problem.data is None:
            message = (
                "this matcher minimizes the loss at the midpoint of the two networks; pass `task` (a model and batches "
                "of inputs and targets), or use `weight`, which needs no data"
            )
            raise InvalidInputError(message)
        reference = problem.reference
        dtype = working_dtype(reference.dtype)
        self.model = FunctionalModel(problem.model, device=reference.device, dtype=dtype)
        use_batch_statistics(self.model)
        self.batches = held_batches(self.model, problem.data)
        self._problem = problem
        self._likelihood = likelihood
        self.reference = widened(reference.mean)
        self.candidate = widened(problem.candidate.mean)
        stddevs = [widened(q.stddev) for q in (reference, problem.candidate)]
        self._stddevs = stddevs if any(bool((t > 0).any()) for side in stddevs for t in side.values()) else None
        self._buffers = widened(reference.buffers), widened(problem.candidate.buffers)

    def at(
        self,
        mean: Mapping[str, Tensor],
        permutation: GroupElement,
        inputs: AnyInputs,
        targets: Tensor,
        *,
        t: float = 0.5,
    ) -> Tensor:
        """Return the loss on a batch at a point between the two networks, differentiable in ``mean``.

        Args:
            mean: The permuted means of the candidate.
            permutation: Permutation of the candidate's standard deviations and buffers.
            inputs: Inputs of the batch.
            targets: Targets of the batch.
            t: Interpolation coefficient, in [0, 1].

        Returns:
            The mean loss in nats per example, a scalar.

        Raises:
            InvalidInputError: If the loss is not finite, or outputs do not fit the targets.
        """
        between = {name: torch.lerp(tensor, mean[name], t) for name, tensor in self.reference.items()}
        if self._stddevs is not None:
            own = permutation
            if isinstance(permutation, SymmetryElement):
                own = recentered(permutation, permutation.symmetry.centered)
            permuted = {n: t.abs() for n, t in own.apply_to_deviations(self._stddevs[1]).items()}
            between = {
                name: tensor
                + torch.lerp(self._stddevs[0][name], permuted[name], t)
                * standard_normal(tensor.shape, tensor, self._problem.generator)
                for name, tensor in between.items()
            }
        buffers = interpolate_buffers(self._buffers[0], permutation.apply(self._buffers[1]), t)
        outputs = self.model({**between, **buffers}, inputs)
        self._likelihood.check(outputs, targets)
        loss = -self._likelihood.log_prob(outputs, targets).mean()
        if not torch.isfinite(loss):
            message = (
                f"non-finite loss {loss.item()} between the two networks at t = {t:.3g}; check for NaN inputs, "
                "diverged weights, or a learning rate that is too large"
            )
            raise InvalidInputError(message)
        return loss

    def of(self, permutation: GroupElement) -> float:
        """Return the loss at the midpoint on all data, for distributions with common random numbers in all calls.

        Args:
            permutation: Permutation of the candidate.

        Returns:
            The mean loss in nats per example.

        Raises:
            InvalidInputError: If the loss is not finite, or outputs do not fit the targets.
        """
        generator = self._problem.generator
        state = generator.get_state()
        generator.manual_seed(0)
        permuted = permutation.apply(self.candidate)
        total = [self.at(permuted, permutation, x, y).double() * len(y) for x, y in self.batches]
        generator.set_state(state)
        return (torch.stack(total).sum() / sum(len(y) for _, y in self.batches)).item()
