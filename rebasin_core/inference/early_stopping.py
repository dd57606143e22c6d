"""Early stopping: training ends when the loss on validation data no longer falls, and returns to the best epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.predictive import held_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.checkpoint import TrainingState


@final
class EarlyStopping:
    """Records the loss on validation data, and keeps the best epoch.

    The loss is the negative log likelihood of the present parameters in evaluation mode, averaged over networks; for
    variational inference, of the means.

    Args:
        problem: The problem, with validation data.
        state: State of training; the best epoch is kept in its memory, which is part of checkpoints.
        patience: Number of epochs without a better loss after which training is over; None for no limit.
    """

    def __init__(self, problem: FitProblem, state: TrainingState, patience: int | None) -> None:
        first = next(problem.model.parameters())
        self._model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype)
        self._batches = held_batches(self._model, problem.validation or ())
        self._likelihood = problem.likelihood
        self._state = state
        self._patience = patience
        if patience is not None:
            state.memory |= {f"best/{key}": tensor.detach().clone() for key, tensor in self._live().items()}

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        losses = self._state.validation
        return self._patience is not None and len(losses) - 1 - _best(losses) >= self._patience

    def record(self, points: Sequence[dict[str, Tensor]]) -> None:
        """Compute the loss after an epoch, and keep the state if it is the best one.

        Args:
            points: Parameters and buffers of every network.
        """
        total = 0.0
        count = 0
        with torch.no_grad():
            for tensors in points:
                for inputs, targets in self._batches:
                    outputs = self._model(tensors, inputs)
                    self._likelihood.check(outputs, targets)
                    total -= self._likelihood.log_prob(outputs, targets).sum().item()
                    count += len(targets)
        losses = self._state.validation
        losses.append(total / count)
        if self._patience is not None and _best(losses) == len(losses) - 1:
            for key, tensor in self._live().items():
                self._state.memory[f"best/{key}"].copy_(tensor.detach())

    def restore(self) -> None:
        """Return to the best epoch, if training may have passed it."""
        if self._patience is not None:
            with torch.no_grad():
                for key, tensor in self._live().items():
                    tensor.copy_(self._state.memory[f"best/{key}"])

    def _live(self) -> dict[str, Tensor]:
        parts = (("parameter", self._state.parameters), ("buffer", self._state.buffers))
        return {f"{part}/{name}": tensor for part, tensors in parts for name, tensor in tensors.items()}


def _best(losses: Sequence[float]) -> int:
    """Return the first epoch with the least loss; 0 before the first."""
    return min(range(len(losses)), key=losses.__getitem__, default=0)
