"""Inference by stochastic gradients: methods that minimize an objective by minibatches."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.identity import ProblemIdentity
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.inference.training import Optimization, TrainingLoop
from rebasin_core.tensors.noise import on_device

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn

    from rebasin_core.inference.objective import AbstractObjective

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class AbstractGradientInference(Inference):
    r"""Minimizes an objective by minibatches. A subclass gives the objective and its optimizer.

    The gradient of a batch of $b$ examples is weighted by $b / \bar b$, with the mean size $\bar b$ of batches, so that
    every example counts the same however the data are split: over one pass, the gradients of the steps average to the
    gradient on all data exactly. Plain gradient descent with a falling rate, and Langevin dynamics with small steps,
    then converge to what one batch of all data gives; optimizers that rescale gradients (Adam) do so up to their own
    dependence on the order of steps.

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
    def _check(self, problem: FitProblem) -> None:
        with _own_randomness(_located(problem)) as located:
            objective, _ = self._prepared(located)
            inputs, targets = next(checked_batches(problem.data))
            objective.loss(objective.model.to_device(inputs), objective.model.to_device(targets))

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        with _own_randomness(_located(problem)) as located:
            identity = None if located.checkpoint is None else ProblemIdentity.of(self, located)
            loop = TrainingLoop(*self._prepared(located), identity)
            resumed_at = loop.run(self.epochs)
            posterior = loop.objective.posterior()
        return FitResult(posterior, tuple(loop.state.history), resumed_at, tuple(loop.state.validation))

    @final
    def _prepared(self, problem: FitProblem) -> tuple[AbstractObjective, Optimization]:
        """Return what training needs, checked."""
        first = next(problem.model.parameters())
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=True)
        objective = self._objective(problem, model)
        optimization = self._optimization(objective)
        if optimization.patience is not None and problem.validation is None:
            message = (
                f"`patience` of {optimization.patience} needs validation data; give them to `fit`, or leave it out"
            )
            raise InvalidInputError(message)
        return objective, optimization

    @final
    def _scheduled(
        self,
        objective: AbstractObjective,
        optimizer: OptimizerSpec,
        schedule: ScheduleSpec | None,
        patience: int | None = None,
    ) -> Optimization:
        """Return an optimizer with a schedule that has been tried for the number of steps of training."""
        built = optimizer.build(objective.parameters.values())
        if schedule is None:
            return Optimization(built, patience=patience)
        per_epoch = objective.problem.num_batches if schedule.interval == "step" else 1
        schedule.require_steps(optimizer, self.epochs * per_epoch)
        return Optimization(built, schedule.build(built), schedule.interval, patience)


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
        return self._scheduled(objective, self.optimizer, self.schedule, self.patience)


def _located(problem: FitProblem) -> FitProblem:
    """Return a problem with its source of randomness on the model's device, after a look at the parameters."""
    parameters = dict(problem.model.named_parameters())
    if not parameters:
        message = "the model has no parameters, so there is nothing to infer"
        raise InvalidInputError(message)
    _require_dtypes(parameters)
    device = next(iter(parameters.values())).device
    return replace(problem, generator=on_device(problem.generator, device))


def _require_dtypes(parameters: dict[str, nn.Parameter]) -> None:
    """Raise if parameters cannot be trained in their dtype."""
    first, expected = next((name, tensor.dtype) for name, tensor in parameters.items())
    for name, tensor in parameters.items():
        if tensor.dtype not in _DTYPES:
            advice = "; convert it with `model.float()`, and the posterior back with `posterior.to(dtype=...)`"
            reason = ": in float16, gradients per example and the small constants of optimizers are rounded to zero"
            message = (
                f"expected parameters in float32, float64 or bfloat16 to train, got {tensor.dtype} for `{name}`"
                f"{reason if tensor.dtype == torch.float16 else ''}{advice}"
            )
            raise InvalidInputError(message)
        if tensor.dtype != expected:
            message = (
                f"expected parameters of one dtype, got {expected} for `{first}` and {tensor.dtype} for `{name}`; "
                "convert the model with `model.float()` or `model.double()`"
            )
            raise InvalidInputError(message)


@contextmanager
def _own_randomness(problem: FitProblem) -> Generator[FitProblem]:
    """Fork torch's global generators, which layers with randomness of their own (dropout) use, and seed them."""
    device = problem.generator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(problem.generator.initial_seed())
        yield problem
