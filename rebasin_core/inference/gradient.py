"""Inference by stochastic gradients: methods that minimize an objective on minibatches."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.inference.augmentation import Augmentation
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.identity import ProblemIdentity
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.inference.options import PositiveFinite
from rebasin_core.inference.training import Optimization, TrainingLoop
from rebasin_core.tensors.noise import on_device

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn

    from rebasin_core.inference.objective import AbstractObjective

TrainingPrecision: TypeAlias = Literal["full", "bfloat16"]
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class AbstractGradientInference(Inference):
    r"""Method that minimizes an objective on minibatches. A subclass defines the objective and its optimizer.

    The gradient of a batch of $b$ examples is weighted by $b / \bar b$, with the mean batch size $\bar b$. Its average
    over one pass at fixed parameters is therefore exactly the gradient on all data, for any split into batches. SGD
    with a decreasing learning rate, and Langevin dynamics with small steps, have the same limit as full-batch training.
    Optimizers that rescale gradients (Adam) have it up to their dependence on the order of steps.

    Raises:
        ConfigError: If an option is invalid.
    """

    epochs: PositiveInt = 20
    """Number of passes over the data."""

    @abstractmethod
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        """Return the objective of a problem.

        Args:
            problem: The problem; its generator is on the model's device.
            model: Private copy of the network, in training mode.

        Returns:
            The objective.
        """

    @abstractmethod
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        """Return the optimization of an objective.

        Args:
            objective: Function to minimize, with its parameters.

        Returns:
            The optimizer, its learning-rate schedule, and the patience of early stopping.
        """

    @property
    def _products(self) -> torch.dtype | None:
        """The dtype of matrix products inside the network; that of its parameters if None."""
        return None

    @final
    @override
    def _check(self, problem: FitProblem) -> None:
        with forked_rng(on_model_device(problem)) as local:
            objective, optimization = self._prepared(local)
            inputs, targets = next(checked_batches(problem.data))
            given = optimization.augmented(objective.model.to_device(inputs), local.generator)
            objective.loss(given, objective.model.to_device(targets))

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        with forked_rng(on_model_device(problem)) as local:
            identity = None if local.checkpoint is None else ProblemIdentity.of(self, local)
            loop = TrainingLoop(*self._prepared(local), identity)
            resumed_at = loop.run(self.epochs)
            posterior = loop.objective.posterior()
        return FitResult(posterior, tuple(loop.state.history), resumed_at, tuple(loop.state.validation))

    @final
    def _prepared(self, problem: FitProblem) -> tuple[AbstractObjective, Optimization]:
        """Return the objective and its optimizer; raise if early stopping lacks validation data."""
        first = next(problem.model.parameters())
        model = FunctionalModel(
            problem.model, device=first.device, dtype=first.dtype, training=True, autocast=self._products
        )
        objective = self._objective(problem, model)
        optimization = self._optimization(objective)
        if optimization.patience is not None and problem.validation is None:
            message = (
                f"`patience={optimization.patience}` requires validation data; pass `validation` to `fit`, or omit it"
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
        """Return an optimizer and a schedule, checked for the number of training steps."""
        built = optimizer.build(objective.groups())
        if schedule is None:
            return Optimization(built, patience=patience)
        per_epoch = objective.problem.num_batches if schedule.interval == "step" else 1
        schedule.require_steps(optimizer, self.epochs * per_epoch)
        return Optimization(built, schedule.build(built), schedule.interval, patience)


class AbstractOptimizedInference(AbstractGradientInference):
    """Method that minimizes an objective with any optimizer and schedule of torch, with optional early stopping.

    Raises:
        ConfigError: If an option is invalid.
    """

    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimizer of ``torch.optim`` with its options; Adam with learning rate 0.001 by default."""

    schedule: ScheduleSpec | None = None
    """Learning-rate schedule of ``torch.optim.lr_scheduler`` with its options; constant if None."""

    patience: PositiveInt | None = None
    """Number of epochs without a lower validation loss after which training stops; the posterior is that of the best
    epoch. Needs validation data. No early stopping if None."""

    max_grad_norm: PositiveFinite | None = None
    """Largest norm of the gradient of a step, for each network; larger gradients are scaled to it. No limit if None."""

    augmentation: Augmentation | None = None
    """Random shifts and reflections of training images, such as ``{shift: 4, flip: true}``. None if not given."""

    precision: TrainingPrecision = "full"
    """``full``, or ``bfloat16``: matrix products and convolutions of training in bfloat16 (`torch.autocast`), up to
    twice as fast on hardware that supports it. Parameters, the likelihood and the prior stay in the dtype of the
    network."""

    @property
    @override
    def _products(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bfloat16" else None

    @final
    @override
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        found = self._scheduled(objective, self.optimizer, self.schedule, self.patience)
        return replace(found, max_grad_norm=self.max_grad_norm, augmentation=self.augmentation)


def on_model_device(problem: FitProblem) -> FitProblem:
    """Return a problem with its generator on the model's device; raise if its parameters cannot be trained.

    Args:
        problem: A problem.

    Returns:
        The problem with such a generator.

    Raises:
        InvalidInputError: If there are no parameters, or they have several dtypes or one that cannot be trained.
    """
    parameters = dict(problem.model.named_parameters())
    if not parameters:
        message = "expected a model with at least one parameter, got none"
        raise InvalidInputError(message)
    _require_dtypes(parameters)
    device = next(iter(parameters.values())).device
    return replace(problem, generator=on_device(problem.generator, device))


def _require_dtypes(parameters: dict[str, nn.Parameter]) -> None:
    """Raise if parameters cannot be trained in their dtype."""
    first, expected = next((name, tensor.dtype) for name, tensor in parameters.items())
    for name, tensor in parameters.items():
        if tensor.dtype not in _DTYPES:
            advice = "; convert the model with `model.float()`, and the posterior back with `posterior.to(dtype=...)`"
            reason = ": in float16, gradients per example and the small constants of optimizers underflow to zero"
            message = (
                f"expected parameters in float32, float64 or bfloat16, got {tensor.dtype} for `{name}`"
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
def forked_rng(problem: FitProblem) -> Generator[FitProblem]:
    """Fork and seed torch's global generators, which stochastic layers of the model (dropout) use.

    Args:
        problem: A problem; its generator gives the seed.

    Yields:
        The problem.
    """
    device = problem.generator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(problem.generator.initial_seed())
        yield problem
