"""Stochastic-gradient Langevin dynamics."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.inference.stochastic_gradient_mcmc import AbstractStochasticGradientMCMC, ChainOptions, SamplingPlan

if TYPE_CHECKING:
    from rebasin_core.inference.prior import PriorScale


@final
class SGLD(AbstractStochasticGradientMCMC):
    r"""Samples by stochastic-gradient Langevin dynamics.

    $$ \theta \leftarrow \theta - \eta \nabla \tilde U(\theta) + \sqrt{2 \eta T / N}\, \xi, \qquad
       \tilde U = -\tfrac1N \log p(\theta, D) $$

    The steps have a bias that vanishes with $\eta$, and with it the noise of minibatches. Chains start where the model
    stands (the first) and afresh (the others), on the same batches.

    Args:
        epochs: Passes over the data.
        learning_rate: $\eta$, the largest step.
        burn_in: Passes before the first sample; without cycles.
        thinning: Passes from one sample to the next.
        cycles: 0 for a constant step, else the number of cosine cycles.
        exploration: The noiseless part of each cycle.
        temperature: $T$; 1 for the posterior.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names.
        chains: Number of chains.
        together: Whether to run them at once where that is possible.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        M. Welling, Y. W. Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics", ICML; R. Zhang et
        al. (2020), "Cyclical stochastic gradient MCMC for Bayesian deep learning", ICLR, arXiv 1902.03932.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SGLD(epochs=6, burn_in=2, chains=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        8
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        epochs: int = 100,
        learning_rate: float = 0.01,
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
        options = ChainOptions(plan, learning_rate, 1.0, temperature, prior_scale, chains)
        super().__init__(options, together=together)
