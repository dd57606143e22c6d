"""Stochastic-gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.inference.stochastic_gradient_mcmc import AbstractStochasticGradientMCMC, ChainOptions, SamplingPlan

if TYPE_CHECKING:
    from rebasin_core.inference.prior import PriorScale


@final
class SGHMC(AbstractStochasticGradientMCMC):
    r"""Samples by stochastic-gradient Hamiltonian Monte Carlo: Langevin dynamics with momentum and friction.

    $$ v \leftarrow (1 - \alpha) v - \eta \nabla \tilde U(\theta) + \sqrt{2 \alpha \eta T / N}\, \xi, \qquad
       \theta \leftarrow \theta + v, \qquad \tilde U = -\tfrac1N \log p(\theta, D) $$

    Args:
        epochs: Passes over the data.
        learning_rate: $\eta$, the largest step.
        momentum_decay: $\alpha$ in (0, 1]: the friction of a step; 1 is SGLD.
        burn_in: Passes before the first sample; without cycles.
        thinning: Passes from one sample to the next.
        cycles: 0 for a constant step, else the number of cosine cycles.
        exploration: The noiseless part of each cycle.
        temperature: $T$; 1 for the posterior.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names.
        chains: Number of chains, side by side on the same batches.
        together: Whether to run them at once where that is possible.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        T. Chen, E. Fox, C. Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", ICML, arXiv 1402.4102,
        equation 15; R. Zhang et al. (2020), "Cyclical stochastic gradient MCMC for Bayesian deep learning", ICLR,
        arXiv 1902.03932, equation 1 (the schedule).

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SGHMC(epochs=6, cycles=3, chains=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        6
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        epochs: int = 100,
        learning_rate: float = 0.01,
        momentum_decay: float = 0.1,
        burn_in: int = 20,
        thinning: int = 1,
        cycles: int = 0,
        exploration: float = 0.5,
        temperature: float = 1.0,
        prior_scale: PriorScale = 1.0,
        chains: int = 1,
        together: bool = True,
    ) -> None:
        plan = SamplingPlan(epochs, burn_in, thinning, cycles, exploration)
        options = ChainOptions(plan, learning_rate, momentum_decay, temperature, prior_scale, chains)
        super().__init__(options, together=together)
