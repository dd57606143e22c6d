"""The training loop of methods based on stochastic gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import DivergenceError, InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.predictive import EpochBatches
from rebasin_core.inference.checkpoint import TrainingState
from rebasin_core.inference.early_stopping import EarlyStopping
from rebasin_core.tensors.progress import StepProgress

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

    from rebasin_core.inference.augmentation import Augmentation
    from rebasin_core.inference.identity import ProblemIdentity
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.inference.optimizer import Interval
    from rebasin_core.tensors.inputs import AnyInputs

# A checkpoint is due after 20 times the duration of the last writing: writing takes at most 5 % of the run time.
_CHECKPOINT_INTERVAL = 20


@final
@dataclass(frozen=True, slots=True)
class Optimization:
    """Optimizer, learning-rate schedule and early stopping of an objective.

    Attributes:
        optimizer: Optimizer of the objective's parameters.
        schedule: Learning-rate schedule; None for a constant rate, or one that the objective sets.
        interval: Whether the schedule advances every epoch or every step.
        patience: Number of epochs without a lower validation loss after which training stops; None for no limit.
        max_grad_norm: Largest norm of the gradient of each network; larger gradients are scaled to it. None for no
            limit.
        augmentation: Random changes of the inputs of each step; None for none.
    """

    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None = None
    interval: Interval = "epoch"
    patience: int | None = None
    max_grad_norm: float | None = None
    augmentation: Augmentation | None = None

    def augmented(self, inputs: AnyInputs, generator: torch.Generator) -> AnyInputs:
        """Return inputs of a step, changed at random if there is an augmentation.

        Args:
            inputs: The inputs, on the model's device.
            generator: Random number generator, on the same device.

        Returns:
            The changed inputs, or the same.
        """
        return inputs if self.augmentation is None else self.augmentation(inputs, generator)


@final
class TrainingLoop:
    """Loop that minimizes an objective over epochs of minibatches.

    Attributes:
        objective: The objective.
        state: State of training.

    Args:
        objective: The objective.
        optimization: Its optimizer and schedule.
        identity: Identity of the problem, which a checkpoint must match; None without a checkpoint.
    """

    def __init__(
        self, objective: AbstractObjective, optimization: Optimization, identity: ProblemIdentity | None = None
    ) -> None:
        self._problem = objective.problem
        self.objective = objective
        self._optimization = optimization
        self._identity = identity
        self.state = TrainingState(
            parameters=objective.parameters,
            buffers=objective.buffers,
            memory=objective.memory,
            optimizer=optimization.optimizer,
            schedule=optimization.schedule,
            generator=self._problem.generator,
        )
        self._stopping: EarlyStopping | None = None
        if self._problem.validation is not None:
            self._stopping = EarlyStopping(self._problem, self.state, optimization.patience)

    def run(self, epochs: int) -> int:
        """Run all remaining epochs, and with early stopping restore the best one.

        Args:
            epochs: Total number of epochs.

        Returns:
            Number of epochs already done in the checkpoint; 0 without one.

        Raises:
            DivergenceError: If a loss or a parameter is not finite.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        checkpoint = self._problem.checkpoint
        identity = self._identity
        if checkpoint is not None and identity is not None and checkpoint.exists():
            self.state.load(checkpoint, identity, self._problem)
        resumed_at = len(self.state.history)
        next_writing = 0.0
        label, is_shown = self._problem.label, self._problem.progress
        with StepProgress(epochs, done=resumed_at, label=label, unit="epoch", is_shown=is_shown) as shown:
            for epoch in range(resumed_at, epochs):
                if self._stopping is not None and self._stopping.is_over:
                    break
                self._advance(epoch)
                shown.advance(f"loss {self.state.history[-1]:.4f}")
                start = monotonic()
                is_due = start >= next_writing or epoch == epochs - 1
                if checkpoint is not None and identity is not None and is_due:
                    self.state.save(checkpoint, identity)
                    next_writing = monotonic() + _CHECKPOINT_INTERVAL * (monotonic() - start)
        if self._stopping is not None:
            self._stopping.restore()
        self._require_finite()
        return resumed_at

    def _advance(self, epoch: int) -> None:
        """Train for one epoch, and record its training and validation loss."""
        # By epoch: a resumed run has the same dropout masks and shuffling as an uninterrupted run.
        torch.manual_seed(self._problem.generator.initial_seed() + epoch)
        self.state.history.append(self._epoch(epoch))
        self.objective.end_epoch(epoch)
        if self._stopping is not None:
            self._stopping.record(self.objective.points())

    def _epoch(self, epoch: int) -> float:
        """Take one optimization step per batch, and return the mean objective over the pass."""
        if isinstance(self._problem.data, EpochBatches):
            self._problem.data.set_epoch(epoch)
        total = 0.0
        count = 0
        for index, (inputs, targets) in enumerate(checked_batches(self._problem.data)):
            weight = self._problem.batch_weight(targets)
            step = epoch * self._problem.num_batches + index
            self.objective.begin_step(self._optimization.optimizer, step, weight=weight)
            model = self.objective.model
            given = self._optimization.augmented(model.to_device(inputs), self._problem.generator)
            loss = self.objective.loss(given, model.to_device(targets))
            self._optimization.optimizer.zero_grad(set_to_none=True)
            (weight * loss).backward()
            self.objective.adjust_gradients(weight=weight)
            self.objective.clip_gradients(self._optimization.max_grad_norm)
            self._optimization.optimizer.step()
            self._advance_schedule("step")
            total += loss.item() * len(targets)
            count += len(targets)
            if not math.isfinite(total):
                raise DivergenceError(self._divergence(epoch))
        if not count:
            message = f"expected data that can be read every epoch, got no examples in epoch {epoch + 1}"
            raise InvalidInputError(message)
        self._advance_schedule("epoch")
        return total / count / self.objective.members

    def _advance_schedule(self, interval: Interval) -> None:
        if self._optimization.schedule is not None and self._optimization.interval == interval:
            self._optimization.schedule.step()

    @staticmethod
    def _divergence(epoch: int) -> str:
        return (
            f"training diverged: the loss in epoch {epoch + 1} is not finite. Lower the learning rate, or check "
            "the data for NaN"
        )

    def _require_finite(self) -> None:
        """Raise if a parameter is not finite: divergence in the last step does not show in any loss."""
        for name, parameter in self.objective.parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                message = f"training diverged: `{name}` is not finite after the last epoch. Lower the learning rate"
                raise DivergenceError(message)
