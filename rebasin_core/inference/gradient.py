"""Inference by stochastic gradients: the training loop that methods share."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.predictive import EpochBatches
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.checkpoint import TrainingState
from rebasin_core.inference.early_stopping import EarlyStopping
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import on_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

# The state is written as often as this keeps the cost of writing below one part in twenty.
_RARITY = 20


class AbstractObjective(ABC):
    """What is minimised for one problem, batch by batch.

    Attributes:
        problem: What is to be fitted.
        model: The network, a private copy.
        buffers: Its buffers, updated by training.
        parameters: The leaf tensors that are optimised.
        memory: Tensors that the method keeps from epoch to epoch (collected samples); part of every checkpoint.
        members: The number of networks whose losses are summed.
    """

    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        parameters: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        members: int = 1,
    ) -> None:
        self.problem, self.model, self.members = problem, model, members
        given = dict(model.module.named_buffers()) if buffers is None else buffers
        self.buffers = copied(given)
        self.parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        self.memory: dict[str, Tensor] = {}

    @abstractmethod
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the objective on a batch: an unbiased estimate, a scalar in nats per example, summed over members."""

    @abstractmethod
    def posterior(self) -> Posterior:
        """Return the posterior that the parameters, and what was collected, stand for."""

    @abstractmethod
    def points(self) -> list[dict[str, Tensor]]:
        """Return the networks' parameters and buffers where training stands, for a look at validation data."""

    def begin_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:  # ruff: ignore[no-self-use] - a hook
        """Prepare a step; methods with a schedule of their own set the learning rate here.

        Args:
            optimizer: The optimiser.
            step: The number of the step since the start of training.
        """
        del optimizer, step

    def end_epoch(self, epoch: int) -> None:  # ruff: ignore[no-self-use] - a hook
        """Look at the parameters after an epoch; methods that collect samples do it here.

        Args:
            epoch: The number of the epoch, from 0.
        """
        del epoch


class AbstractGradientInference(Inference):
    """Minimises an objective by minibatches; a subclass gives the objective.

    Args:
        epochs: Passes over the data, at least 1.
        optimizer: Any optimiser of torch.
        schedule: Any learning-rate schedule of torch, or None.
        patience: Stop after this many epochs without a better loss on the validation data, and go back to the best
            epoch; None trains all epochs. Needs validation data.

    Raises:
        InvalidInputError: If ``epochs`` or ``patience`` is less than 1.
    """

    @abstractmethod
    def __init__(
        self,
        *,
        epochs: int = 20,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        patience: int | None = None,
    ) -> None:
        for name, value in (("epochs", epochs), ("patience", patience)):
            if value is not None and value < 1:
                message = f"expected `{name}` of at least 1, got {value!r}"
                raise InvalidInputError(message)
        self._epochs = epochs
        self._optimizer = optimizer or OptimizerSpec()
        self._schedule = schedule
        self._patience = patience

    @abstractmethod
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        """Return the objective of a problem."""

    @abstractmethod
    def _options(self) -> tuple[object, ...]:
        """Return the subclass's own options, so that a checkpoint of other options is not taken up."""

    def _build_optimizer(self, objective: AbstractObjective) -> torch.optim.Optimizer:
        """Return the optimiser; a method with one of its own overrides this."""
        return self._optimizer.build(objective.parameters.values())

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        first = next(problem.model.parameters(), None)
        if first is None:
            message = "the model has no parameters, so there is nothing to infer"
            raise InvalidInputError(message)
        if self._patience is not None and problem.validation is None:
            message = f"`patience` of {self._patience} needs validation data; give them to `fit`, or leave it out"
            raise InvalidInputError(message)
        problem = replace(problem, generator=on_device(problem.generator, first.device))
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=True)
        # Layers with randomness of their own (dropout) use torch's global generator: it is forked, never advanced.
        devices = [first.device] if first.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(problem.generator.initial_seed())
            objective = self._objective(problem, model)
            optimizer = self._build_optimizer(objective)
            state = TrainingState(
                parameters=objective.parameters,
                buffers=objective.buffers,
                memory=objective.memory,
                optimizer=optimizer,
                schedule=None if self._schedule is None else self._schedule.build(optimizer),
                generator=problem.generator,
            )
            stopping = None if problem.validation is None else EarlyStopping(problem, state, self._patience)
            resumed_at = self._train(problem, objective, state, stopping)
            if stopping is not None:
                stopping.restore()
            posterior = objective.posterior()
        return FitResult(posterior, tuple(state.history), resumed_at, tuple(state.validation))

    def _train(
        self, problem: FitProblem, objective: AbstractObjective, state: TrainingState, stopping: EarlyStopping | None
    ) -> int:
        """Run all epochs that are left; return at which one this began."""
        fingerprint, checkpoint = self._fingerprint(problem), problem.checkpoint
        if checkpoint is not None and checkpoint.exists():
            state.load(checkpoint, fingerprint)
        begin, next_writing = len(state.history), 0.0
        bar = tqdm(total=self._epochs, initial=begin, desc=problem.label, unit="epoch", disable=not problem.progress)
        with bar:
            for epoch in range(begin, self._epochs):
                if stopping is not None and stopping.is_over:
                    break
                torch.manual_seed(problem.generator.initial_seed() + epoch)
                state.history.append(self._epoch(problem, objective, state, epoch))
                objective.end_epoch(epoch)
                if stopping is not None:
                    stopping.look(objective.points())
                bar.set_postfix(loss=f"{state.history[-1]:.4f}")
                bar.update()
                start = monotonic()
                if checkpoint is not None and (start >= next_writing or epoch == self._epochs - 1):
                    state.save(checkpoint, fingerprint)
                    next_writing = monotonic() + _RARITY * (monotonic() - start)
        return begin

    def _epoch(self, problem: FitProblem, objective: AbstractObjective, state: TrainingState, epoch: int) -> float:
        """Return the mean objective over one pass of the data."""
        if isinstance(problem.data, EpochBatches):
            problem.data.set_epoch(epoch)
        total, count = 0.0, 0
        for number, batch in enumerate(problem.data):
            inputs, targets = (objective.model.to_device(part) for part in batch)
            objective.begin_step(state.optimizer, epoch * problem.num_batches + number)
            loss = objective.loss(inputs, targets)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            state.optimizer.step()
            if state.schedule is not None and self._schedule is not None and self._schedule.interval == "step":
                state.schedule.step()
            total += loss.item() * len(targets)
            count += len(targets)
        if not math.isfinite(total):
            message = (
                f"training diverged: the loss in epoch {epoch + 1} is not finite. Lower the learning rate, or look for "
                "NaN in the data"
            )
            raise InvalidInputError(message)
        if state.schedule is not None and self._schedule is not None and self._schedule.interval == "epoch":
            state.schedule.step()
        return total / max(count, 1) / objective.members

    def _fingerprint(self, problem: FitProblem) -> str:
        shapes = [(name, tuple(tensor.shape)) for name, tensor in problem.model.named_parameters()]
        parts = (
            type(self).__qualname__, self._options(), self._epochs, self._optimizer, self._schedule, self._patience,
            shapes, problem.num_examples, problem.generator.initial_seed(), type(problem.likelihood).__qualname__,
            problem.validation is None,
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
