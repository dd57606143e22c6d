"""Early stopping: training ends when the loss on validation data no longer falls, and goes back to the best epoch."""

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
    """Watches the loss on validation data, and keeps the best epoch.

    The loss is the mean, over networks, of the negative log likelihood at the point where each stands, in evaluation
    mode: for variational inference at the means.

    Args:
        problem: The problem, with validation data.
        state: The state of training; the best epoch is kept in its memory, so that it is part of checkpoints.
        patience: Epochs without a better loss after which training is over; None for never.
    """

    def __init__(self, problem: FitProblem, state: TrainingState, patience: int | None) -> None:
        first = next(problem.model.parameters())
        self._model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype)
        self._batches = held_batches(self._model, problem.validation or ())
        self._likelihood, self._state, self._patience = problem.likelihood, state, patience
        if patience is not None:
            state.memory |= {f"best/{key}": tensor.detach().clone() for key, tensor in self._live().items()}

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        losses = self._state.validation
        return self._patience is not None and len(losses) - 1 - _best(losses) >= self._patience

    def look(self, points: Sequence[dict[str, Tensor]]) -> None:
        """Take the loss after an epoch.

        Args:
            points: Parameters and buffers of every network.
        """
        total, count = 0.0, 0
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
        """Go back to the best epoch, if training may have gone past it."""
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
