"""Stochastic-gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.inference.stochastic_gradient_mcmc import AbstractStochasticGradientMCMC


@final
class SGHMC(AbstractStochasticGradientMCMC):
    r"""Stochastic-gradient Hamiltonian Monte Carlo (SGHMC): Langevin dynamics with momentum and friction.

    $$ v \leftarrow (1 - \alpha) v - \eta \nabla \tilde U(\theta) + \sqrt{2 \alpha \eta T / N}\, \xi, \qquad
       \theta \leftarrow \theta + v, \qquad \tilde U = -\tfrac1N \log p(\theta, D) $$

    with the learning rate $\eta$, the friction $\alpha$, the temperature $T$, $N$ examples, and
    $\xi \sim \mathcal N(0, I)$. The first chain is initialized at the parameters of the model, the others by
    ``reset_parameters``.

    Raises:
        ConfigError: If an option is invalid.

    References:
        T. Chen, E. Fox, C. Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", ICML, arXiv 1402.4102,
        equation 15; R. Zhang et al. (2020), "Cyclical stochastic gradient MCMC for Bayesian deep learning", ICLR,
        arXiv 1902.03932, equation 1 (the schedule).

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SGHMC(epochs=6, cycles=3, chains=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        6
    """

    name: Literal["sghmc"] = "sghmc"

    momentum_decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    r"""Friction $\alpha$ per step, in (0, 1]; 1 is SGLD."""

    @override
    def friction(self) -> float:
        return self.momentum_decay
