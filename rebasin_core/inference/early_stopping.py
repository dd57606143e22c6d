"""Early stopping: stop training when the validation loss no longer decreases, and restore the best epoch."""

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
    """Record of the validation loss and of the best epoch.

    The loss is the negative log likelihood per example in evaluation mode, averaged over networks. It uses the current
    parameters; for variational inference, the means.

    Args:
        problem: The problem, with validation data.
        state: State of training; its memory, which is part of checkpoints, stores the best epoch.
        patience: Number of epochs without a lower loss after which training stops; None for no limit.
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
        """Whether training should stop."""
        losses = self._state.validation
        return self._patience is not None and len(losses) - 1 - _best(losses) >= self._patience

    def record(self, points: Sequence[dict[str, Tensor]]) -> None:
        """Compute the validation loss after an epoch, and store the state if it is the best so far.

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
        """Restore the best epoch, if there is a patience."""
        if self._patience is not None:
            with torch.no_grad():
                for key, tensor in self._live().items():
                    tensor.copy_(self._state.memory[f"best/{key}"])

    def _live(self) -> dict[str, Tensor]:
        parts = (("parameter", self._state.parameters), ("buffer", self._state.buffers))
        return {f"{part}/{name}": tensor for part, tensors in parts for name, tensor in tensors.items()}


def _best(losses: Sequence[float]) -> int:
    """Return the index of the first epoch with the lowest loss; 0 if there is none."""
    return min(range(len(losses)), key=losses.__getitem__, default=0)
