"""Stochastic-gradient Markov chain Monte Carlo: SGLD and SGHMC, with constant or cyclical steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Self, final

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.inference.collected import Collected
from rebasin_core.inference.gradient import AbstractGradientInference
from rebasin_core.inference.langevin import LangevinOptimizer
from rebasin_core.inference.options import PositiveFinite, PriorScale
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.inference.training import Optimization

if TYPE_CHECKING:
    import torch

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior


class AbstractStochasticGradientMCMC(AbstractGradientInference):
    r"""Runs chains in parallel, and collects their states as samples.

    The step is constant, with samples after a burn-in. With cycles, it falls from the largest step to zero in each
    cycle like a cosine; the first part of a cycle explores without noise, and samples are taken after it.

    The target is $(p(D \mid \theta) \, p(\theta))^{1 / T}$: a temperature $T < 1$ gives a *cold posterior*, in which
    likelihood and prior are tempered (F. Wenzel et al. (2020), ICML, arXiv 2002.02405, equations 1 and 2).

    A batch of another size than the mean takes a step of another length: its gradient and the variance of its noise
    are weighted by its number of examples.

    Raises:
        ConfigError: If an option is invalid.
    """

    epochs: PositiveInt = 100
    """Number of passes over the data."""

    learning_rate: PositiveFinite = 0.01
    r"""The largest step $\eta$, in units of the loss per example."""

    burn_in: NonNegativeInt = 20
    """Number of passes before the first sample; not used with cycles."""

    thinning: PositiveInt = 1
    """Number of passes from one sample to the next."""

    cycles: NonNegativeInt = 0
    """Number of cosine cycles, of equal length; 0 for a constant step."""

    exploration: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Part of each cycle, at its start, without noise and without samples."""

    temperature: NonNegativeFloat = 1.0
    """Temperature $T$: 1 for the posterior, less for a cold one, of which likelihood and prior are tempered."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat
    prior."""

    chains: PositiveInt = 1
    """Number of chains, run in parallel on the same batches."""

    together: bool = True
    """Whether the chains are run in one batch if that is possible."""

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.cycles and self.epochs % self.cycles:
            message = f"expected `epochs` to be a multiple of `cycles`, got {self.epochs} and {self.cycles}"
            raise ValueError(message)
        if not self.samples_per_chain:
            message = (
                f"no sample would be taken in {self.epochs} epochs with burn_in={self.burn_in}, "
                f"thinning={self.thinning}, cycles={self.cycles} and exploration={self.exploration}; train longer, "
                "burn in for less, or thin less"
            )
            raise ValueError(message)
        return self

    @abstractmethod
    def friction(self) -> float:
        r"""Return the part $\alpha$ of the momentum that is lost at every step, in (0, 1]; 1 for no momentum."""

    @final
    @property
    def samples_per_chain(self) -> int:
        """Number of samples of each chain."""
        return sum(self.is_sampled(epoch) for epoch in range(self.epochs))

    @final
    def is_sampled(self, epoch: int) -> bool:
        """Return whether a sample is taken after an epoch.

        Args:
            epoch: Index of the epoch, from 0.

        Returns:
            Whether one is.
        """
        if not self.cycles:
            return epoch >= self.burn_in and (epoch - self.burn_in + 1) % self.thinning == 0
        length = self.epochs // self.cycles
        # Counted from the end of the cycle, where the steps are smallest.
        left = length - 1 - epoch % length
        return left % self.thinning == 0 and (epoch % length + 1) > self.exploration * length

    @final
    def step_at(self, time: float) -> tuple[float, bool]:
        """Return the step, in units of the largest one, and whether there is noise.

        Args:
            time: Epochs since the start, a real number.

        Returns:
            A factor in [0, 1], and a truth value.
        """
        if not self.cycles:
            return 1.0, True
        length = self.epochs / self.cycles
        part = (time % length) / length
        return 0.5 * (1 + math.cos(math.pi * part)), part >= self.exploration

    @final
    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self)

    @final
    @override
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        return Optimization(
            LangevinOptimizer(
                objective.parameters.values(),
                lr=self.learning_rate,
                momentum_decay=self.friction(),
                temperature=self.temperature,
                num_examples=objective.problem.num_examples,
                generator=objective.problem.generator,
            )
        )


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: AbstractStochasticGradientMCMC) -> None:
        super().__init__(
            problem, model, members=method.chains, prior_scale=method.prior_scale, together=method.together
        )
        self._method = method
        self._collected = Collected(self, method.samples_per_chain)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        factor, noisy = self._method.step_at(step / self.problem.num_batches)
        for group in optimizer.param_groups:
            group["lr"] = self._method.learning_rate * factor
            # A batch of another size is a step of another length: the gradient comes weighted, the noise follows.
            group["temperature"] = self._method.temperature * weight if noisy else 0.0

    @override
    def end_epoch(self, epoch: int) -> None:
        if self._method.is_sampled(epoch):
            self._collected.add()

    @override
    def posterior(self) -> Posterior:
        return self._collected.posterior()
