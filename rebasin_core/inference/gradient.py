"""Inference by stochastic gradients: methods that minimize an objective by minibatches."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.inference.training import Optimization, TrainingLoop
from rebasin_core.tensors.noise import on_device

if TYPE_CHECKING:
    from rebasin_core.inference.objective import AbstractObjective


class AbstractGradientInference(Inference):
    """Minimizes an objective by minibatches. A subclass gives the objective and its optimizer.

    Raises:
        ConfigError: If an option is invalid.
    """

    epochs: PositiveInt = 20
    """Number of passes over the data."""

    @abstractmethod
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        """Return the objective of a problem."""

    @abstractmethod
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        """Return the optimizer of an objective, with its schedule and the rule for early stopping."""

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        first = next(problem.model.parameters(), None)
        if first is None:
            message = "the model has no parameters, so there is nothing to infer"
            raise InvalidInputError(message)
        problem = replace(problem, generator=on_device(problem.generator, first.device))
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=True)
        # Layers with randomness of their own (dropout) use torch's global generator: it is forked, never advanced.
        devices = [first.device] if first.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(problem.generator.initial_seed())
            objective = self._objective(problem, model)
            optimization = self._optimization(objective)
            if optimization.patience is not None and problem.validation is None:
                message = (
                    f"`patience` of {optimization.patience} needs validation data; give them to `fit`, or leave it out"
                )
                raise InvalidInputError(message)
            loop = TrainingLoop(objective, optimization, self._fingerprint(problem))
            resumed_at = loop.run(self.epochs)
            posterior = objective.posterior()
        return FitResult(posterior, tuple(loop.state.history), resumed_at, tuple(loop.state.validation))

    def _fingerprint(self, problem: FitProblem) -> str:
        """Return a text that differs for checkpoints of other methods or problems."""
        parameters = [(name, list(p.shape), str(p.dtype)) for name, p in problem.model.named_parameters()]
        parts = [
            self.canonical_json(),
            problem.likelihood.canonical_json(),
            parameters,
            problem.num_examples,
            problem.num_batches,
            problem.generator.initial_seed(),
            problem.validation is None,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class AbstractOptimizedInference(AbstractGradientInference):
    """Minimizes an objective with any optimizer and schedule of torch, and stops early if asked.

    Raises:
        ConfigError: If an option is invalid.
    """

    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimizer, any of ``torch.optim``."""

    schedule: ScheduleSpec | None = None
    """Learning-rate schedule, any of ``torch.optim.lr_scheduler``; a constant rate if not given."""

    patience: PositiveInt | None = None
    """Number of epochs without a better validation loss after which training ends; the posterior is that of the best
    epoch. Needs validation data. All epochs are trained if not given."""

    @final
    @override
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        optimizer = self.optimizer.build(objective.parameters.values())
        if self.schedule is None:
            return Optimization(optimizer, patience=self.patience)
        return Optimization(optimizer, self.schedule.build(optimizer), self.schedule.interval, self.patience)
