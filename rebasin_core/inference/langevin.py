"""The stochastic-gradient Langevin and Hamiltonian Monte Carlo updates, as a torch optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.tensors.noise import standard_normal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor


@final
class LangevinOptimizer(torch.optim.Optimizer):
    r"""Optimizer that takes steps of underdamped Langevin dynamics on $\tilde U = -\tfrac1N \log p(\theta, D)$.

    $$ v \leftarrow (1 - \alpha) v - \eta \nabla \tilde U(\theta) + \sqrt{2 \alpha \eta T / N}\, \xi, \qquad
       \theta \leftarrow \theta + v $$

    For $\alpha = 1$ the momentum is not kept, and this is Langevin dynamics (SGLD) with the step
    $\epsilon = 2 \eta / N$.

    Args:
        parameters: Leaf tensors.
        lr: Learning rate $\eta$ for the loss per example.
        momentum_decay: Friction $\alpha$ in (0, 1].
        temperature: Temperature $T$ of the posterior; 1 samples the posterior, 0 is gradient descent without noise.
        num_examples: Number $N$ of examples in the dataset.
        generator: Random number generator of the noise.

    References:
        M. Welling, Y. W. Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics", ICML, equation 4;
        T. Chen, E. Fox, C. Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", ICML, arXiv 1402.4102,
        equation 15.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum_decay: float,
        temperature: float,
        num_examples: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum_decay": momentum_decay, "temperature": temperature})
        self._num_examples = num_examples
        self._generator = generator

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # ignores closures
        for group in self.param_groups:
            rate = group["lr"]
            decay = group["momentum_decay"]
            stddev = math.sqrt(2 * decay * rate * group["temperature"] / self._num_examples)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(1 - decay).add_(parameter.grad, alpha=-rate)
                if stddev:
                    noise = standard_normal(parameter.shape, parameter, self._generator)
                    momentum.add_(noise, alpha=stddev)
                parameter.add_(momentum)
