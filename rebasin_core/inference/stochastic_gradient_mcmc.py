"""Stochastic-gradient Markov chain Monte Carlo: SGLD and SGHMC, with a constant or cyclical learning rate."""

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
    r"""Stochastic-gradient MCMC with parallel chains; their states are the posterior samples.

    Without cycles, the learning rate is constant, and samples are collected after a burn-in. With cycles, it decreases
    to zero in each cycle, as a cosine. The first part of a cycle explores without noise, and samples are collected
    in the rest.

    The target is $(p(D \mid \theta) \, p(\theta))^{1 / T}$: a temperature $T < 1$ gives a *cold posterior*, in which
    likelihood and prior are tempered.

    A batch of $b$ examples, with mean batch size $\bar b$, has the learning rate $\eta b / \bar b$: both its gradient
    and the variance of its noise are multiplied by $b / \bar b$.

    Raises:
        ConfigError: If an option is invalid.

    References:
        F. Wenzel et al. (2020), "How good is the Bayes posterior in deep neural networks really?", ICML, arXiv
        2002.02405, equations 1 and 2 (cold posteriors); R. Zhang et al. (2020), "Cyclical stochastic gradient MCMC for
        Bayesian deep learning", ICLR, arXiv 1902.03932, equation 1 (the schedule).
    """

    epochs: PositiveInt = 100
    """Number of passes over the data."""

    learning_rate: PositiveFinite = 0.01
    r"""Learning rate $\eta$ for the loss per example, positive; with cycles, its maximum."""

    burn_in: NonNegativeInt = 20
    """Number of epochs of burn-in, before the first sample; not used with cycles."""

    thinning: PositiveInt = 1
    """Number of epochs between samples."""

    cycles: NonNegativeInt = 0
    """Number of cosine cycles, which divides ``epochs``; 0 for a constant learning rate."""

    exploration: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Fraction of each cycle, at its start, without noise and without samples, in [0, 1)."""

    temperature: NonNegativeFloat = 1.0
    """Temperature $T$, at least 0; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and
    prior are tempered. 0 is optimization without noise."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive; a number, or a mapping from name patterns. Infinity is a
    flat prior."""

    chains: PositiveInt = 1
    """Number of chains, run in parallel on the same batches."""

    together: bool | None = None
    """Whether to run the networks in one batch (`torch.vmap`) if the model supports it; the result is the same up to
    rounding. If None, the faster way: one batch on a GPU, and for small networks on a CPU."""

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.cycles and self.epochs % self.cycles:
            message = f"expected `epochs` to be a multiple of `cycles`, got {self.epochs} and {self.cycles}"
            raise ValueError(message)
        if not self.samples_per_chain:
            message = (
                f"expected at least one sample per chain, got none in {self.epochs} epochs with "
                f"burn_in={self.burn_in}, thinning={self.thinning}, cycles={self.cycles} and "
                f"exploration={self.exploration}; increase `epochs`, or decrease `burn_in` or `thinning`"
            )
            raise ValueError(message)
        return self

    @abstractmethod
    def friction(self) -> float:
        r"""Return the friction $\alpha$ in (0, 1]: the fraction of the momentum lost per step; 1 for no momentum."""

    @final
    @property
    def samples_per_chain(self) -> int:
        """Number of samples of each chain."""
        return sum(self.is_sampled(epoch) for epoch in range(self.epochs))

    @final
    def is_sampled(self, epoch: int) -> bool:
        """Return whether each chain collects a sample after an epoch.

        Args:
            epoch: Index of the epoch, from 0.

        Returns:
            Whether it does.
        """
        if not self.cycles:
            return epoch >= self.burn_in and (epoch - self.burn_in + 1) % self.thinning == 0
        length = self.epochs // self.cycles
        # Thinning counts from the end of the cycle, where the learning rate is smallest.
        remaining = length - 1 - epoch % length
        return remaining % self.thinning == 0 and (epoch % length + 1) > self.exploration * length

    @final
    def step_at(self, time: float) -> tuple[float, bool]:
        r"""Return the learning rate relative to $\eta$, and whether the step adds noise.

        Args:
            time: Time since the start of training, in epochs; a real number.

        Returns:
            Factor of the learning rate in [0, 1], and whether the step adds noise.
        """
        if not self.cycles:
            return 1.0, True
        length = self.epochs / self.cycles
        fraction = (time % length) / length
        return 0.5 * (1 + math.cos(math.pi * fraction)), fraction >= self.exploration

    @final
    @property
    @override
    def uses_spec(self) -> bool:
        return False

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
            # The training loop weights the gradient of the batch; the temperature weights the variance of its noise.
            group["temperature"] = self._method.temperature * weight if noisy else 0.0

    @override
    def end_epoch(self, epoch: int) -> None:
        if self._method.is_sampled(epoch):
            self._collected.add()

    @override
    def posterior(self) -> Posterior:
        return self._collected.posterior()
