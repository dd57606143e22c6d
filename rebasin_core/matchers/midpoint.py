"""The loss half-way between a reference and a moved candidate: what learned matchers minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.normalization import use_batch_statistics
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.posteriors.interpolation import interpolate_buffers
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.precision import widened, working_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.permutation import Permutation


BY_LOSS = "minimizes the loss at the midpoint, for which a permuted copy of the reference need not be optimal"
"""Why matchers by the loss are exempt from laws about the distance of weights."""


@final
class MidpointLoss:
    """Runs networks between the reference and a moved candidate; of distributions, drawn on the path of their moments.

    Batch normalisations take the statistics of the batch: averaged ones fit no network between the two, whose loss
    would say nothing about what is left once they are taken anew.

    Args:
        problem: With a model and data.
        likelihood: Scores outputs.

    Raises:
        InvalidInputError: If the model or the data are missing.
    """

    def __init__(self, problem: MatchProblem, likelihood: Likelihood) -> None:
        if problem.model is None or problem.data is None:
            message = (
                "this matcher minimizes the loss at the midpoint of the two networks: give `task`, a model with "
                "batches (inputs, targets); `weight` needs none"
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
        spreads = [widened(q.stddev) for q in (reference, problem.candidate)]
        self._spreads = spreads if any(bool((t > 0).any()) for side in spreads for t in side.values()) else None
        self._buffers = widened(reference.buffers), widened(problem.candidate.buffers)

    def at(
        self, mean: Mapping[str, Tensor], permutation: Permutation, inputs: Tensor, targets: Tensor, *, t: float = 0.5
    ) -> Tensor:
        """Return the loss on a batch at a place between the two, differentiable in the candidate's moved means.

        Args:
            mean: The moved means of the candidate.
            permutation: How its standard deviations and buffers are moved.
            inputs: A batch.
            targets: Its targets.
            t: The place.

        Returns:
            Nats per example, a scalar.

        Raises:
            InvalidInputError: If it is not finite, or outputs do not fit the targets.
        """
        between = {name: torch.lerp(tensor, mean[name], t) for name, tensor in self.reference.items()}
        if self._spreads is not None:
            moved = permutation.apply(self._spreads[1])
            between = {
                name: tensor
                + torch.lerp(self._spreads[0][name], moved[name], t)
                * standard_normal(tensor.shape, tensor, self._problem.generator)
                for name, tensor in between.items()
            }
        buffers = interpolate_buffers(self._buffers[0], permutation.apply(self._buffers[1]), t)
        outputs = self.model({**between, **buffers}, inputs)
        self._likelihood.check(outputs, targets)
        loss = -self._likelihood.log_prob(outputs, targets).mean()
        if not torch.isfinite(loss):
            message = (
                f"the loss between the two networks, at {t:.3g}, is {loss.item()}; look for inputs that are not "
                "numbers, weights that diverged, or a learning rate that is too large"
            )
            raise InvalidInputError(message)
        return loss

    def of(self, permutation: Permutation) -> float:
        """Return the loss half-way on all data; of distributions with the same noise each time.

        Args:
            permutation: How the candidate is moved.

        Returns:
            Nats per example.

        Raises:
            InvalidInputError: If it is not finite, or outputs do not fit the targets.
        """
        generator = self._problem.generator
        state = generator.get_state()
        generator.manual_seed(0)
        moved = permutation.apply(self.candidate)
        total = [self.at(moved, permutation, x, y).double() * len(y) for x, y in self.batches]
        generator.set_state(state)
        return (torch.stack(total).sum() / sum(len(y) for _, y in self.batches)).item()
