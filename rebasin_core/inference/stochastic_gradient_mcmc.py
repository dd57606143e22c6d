"""Stochastic-gradient Markov chain Monte Carlo: SGLD and SGHMC, with constant or cyclical steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.collected import Collected
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.langevin import LangevinOptimizer
from rebasin_core.inference.prior import PriorScale, check_scale
from rebasin_core.inference.stacked import AbstractStackedObjective

if TYPE_CHECKING:
    import torch

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class SamplingPlan:
    r"""When a chain moves how fast, and when it is sampled.

    Attributes:
        epochs: All passes over the data.
        burn_in: Passes before the first sample; without cycles.
        thinning: Passes from one sample to the next, at least 1.
        cycles: 0 for a constant step; else the number of cycles, each with a step that falls like a cosine. Epochs must
            be a multiple of it.
        exploration: The part of each cycle at its start in which there is no noise and no sample is taken, in [0, 1).

    Raises:
        InvalidInputError: On construction, if the parts do not fit each other.
    """

    epochs: int
    burn_in: int
    thinning: int
    cycles: int
    exploration: float

    def __post_init__(self) -> None:
        """Check the parts."""
        if self.thinning < 1 or self.burn_in < 0 or self.cycles < 0 or not 0 <= self.exploration < 1:
            message = (
                "expected `thinning` of at least 1, `burn_in` and `cycles` of at least 0 and `exploration` in [0, 1), "
                f"got {self}"
            )
            raise InvalidInputError(message)
        if self.cycles and self.epochs % self.cycles:
            message = f"expected `epochs` to be a multiple of `cycles`, got {self.epochs} and {self.cycles}"
            raise InvalidInputError(message)
        if not self.count:
            message = f"no sample would be taken with {self}; train longer, burn in for less, or thin less"
            raise InvalidInputError(message)

    def is_sampled(self, epoch: int) -> bool:
        """Return whether a sample is taken after an epoch.

        Args:
            epoch: From 0.

        Returns:
            True if so.
        """
        if not self.cycles:
            return epoch >= self.burn_in and (epoch - self.burn_in + 1) % self.thinning == 0
        length = self.epochs // self.cycles
        # Counted from the end of the cycle, where the steps are smallest.
        left = length - 1 - epoch % length
        return left % self.thinning == 0 and (epoch % length + 1) > self.exploration * length

    @property
    def count(self) -> int:
        """The number of samples a chain."""
        return sum(self.is_sampled(epoch) for epoch in range(self.epochs))

    def rate(self, progress: float) -> tuple[float, bool]:
        """Return the step, in units of the largest, and whether there is noise.

        Args:
            progress: Epochs since the start, a real number.

        Returns:
            A factor in [0, 1], and a truth value.
        """
        if not self.cycles:
            return 1.0, True
        length = self.epochs / self.cycles
        part = (progress % length) / length
        return 0.5 * (1 + math.cos(math.pi * part)), part >= self.exploration


@final
@dataclass(frozen=True, slots=True)
class ChainOptions:
    """How chains move, how many there are, and what they sample.

    Attributes:
        plan: When to sample.
        learning_rate: The largest step, in units of the loss per example.
        momentum_decay: The part of the momentum that is lost at every step; 1 for none to keep.
        temperature: 1 for the posterior, less for a cold one.
        prior_scale: Of the Gaussian prior, for all parameters or by pattern.
        chains: Their number, at least 1.

    Raises:
        InvalidInputError: On construction, if an option is out of range.
    """

    plan: SamplingPlan
    learning_rate: float
    momentum_decay: float
    temperature: float
    prior_scale: PriorScale
    chains: int

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.momentum_decay <= 1:
            message = f"expected `momentum_decay` in (0, 1], got {self.momentum_decay!r}"
            raise InvalidInputError(message)
        if not self.learning_rate > 0 or not self.temperature >= 0 or self.chains < 1:
            message = (
                "expected a positive `learning_rate`, a `temperature` of at least 0 and `chains` of at least 1, got "
                f"{self.learning_rate!r}, {self.temperature!r} and {self.chains!r}"
            )
            raise InvalidInputError(message)
        check_scale(self.prior_scale)


class AbstractStochasticGradientMCMC(AbstractGradientInference):
    """Runs chains side by side and collects their states; a subclass says with what options.

    Args:
        options: Of the chains.
        together: Whether to run them at once where that is possible.
    """

    @abstractmethod
    def __init__(self, options: ChainOptions, *, together: bool) -> None:
        super().__init__(epochs=options.plan.epochs)
        self._chain, self._together = options, together

    @final
    @override
    def _options(self) -> tuple[object, ...]:
        return (self._chain,)

    @final
    @override
    def _build_optimizer(self, objective: AbstractObjective) -> torch.optim.Optimizer:
        return LangevinOptimizer(
            objective.parameters.values(),
            lr=self._chain.learning_rate,
            momentum_decay=self._chain.momentum_decay,
            temperature=self._chain.temperature,
            num_examples=objective.problem.num_examples,
            generator=objective.problem.generator,
        )

    @final
    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self._chain, together=self._together)


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, options: ChainOptions, *, together: bool) -> None:
        super().__init__(problem, model, members=options.chains, prior_scale=options.prior_scale, together=together)
        self._chain = options
        self._collected = Collected(self, options.plan.count)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        factor, noisy = self._chain.plan.rate(step / self.problem.num_batches)
        for group in optimizer.param_groups:
            group["lr"] = self._chain.learning_rate * factor
            group["temperature"] = self._chain.temperature if noisy else 0.0

    @override
    def end_epoch(self, epoch: int) -> None:
        if self._chain.plan.is_sampled(epoch):
            self._collected.add()

    @override
    def posterior(self) -> Posterior:
        return self._collected.posterior()
