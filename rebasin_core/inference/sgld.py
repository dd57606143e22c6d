"""Stochastic-gradient Langevin dynamics."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import override

from rebasin_core.inference.stochastic_gradient_mcmc import AbstractStochasticGradientMCMC


@final
class SGLD(AbstractStochasticGradientMCMC):
    r"""Stochastic-gradient Langevin dynamics (SGLD).

    $$ \theta \leftarrow \theta - \eta \nabla \tilde U(\theta) + \sqrt{2 \eta T / N}\, \xi, \qquad
       \tilde U = -\tfrac1N \log p(\theta, D) $$

    with the learning rate $\eta$, the temperature $T$, $N$ examples, and $\xi \sim \mathcal N(0, I)$. The
    discretization bias and the effect of minibatch noise vanish as $\eta \to 0$. The first chain is initialized at the
    parameters of the model, the others by ``reset_parameters``.

    Raises:
        ConfigError: If an option is invalid.

    References:
        M. Welling, Y. W. Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics", ICML, equation 4;
        R. Zhang et al. (2020), "Cyclical stochastic gradient MCMC for Bayesian deep learning", ICLR, arXiv 1902.03932,
        equation 1 (the schedule).

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SGLD(epochs=6, burn_in=2, chains=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        8
    """

    name: Literal["sgld"] = "sgld"

    @override
    def friction(self) -> float:
        return 1.0
