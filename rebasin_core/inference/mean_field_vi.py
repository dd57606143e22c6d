"""Mean-field variational inference: independent Gaussians that maximise the evidence lower bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.local_reparameterization import LocalReparameterization
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.tensors.statistics import isotropic_kl

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
    from rebasin_core.posteriors.base import Posterior


@final
class MeanFieldVI(AbstractGradientInference):
    r"""Fits $q = \mathcal N(m, \mathrm{diag}(s^2))$ by minimising the negative evidence lower bound per example.

    $$ -\frac1B \sum_{i \in \text{batch}} \mathbb E_q \log p(y_i \mid x_i, \theta)
       + \frac{\lambda}{N} \, \mathrm{KL}\big(q \,\|\, \mathcal N(0, \sigma^2 I)\big), $$

    with the true, summed divergence. The means start where the model stands; $s = \log(1 + e^\rho)$ starts at
    ``initial_stddev``. With $\lambda = T < 1$ the likelihood counts $1/T$ times: a tempered ("cold") posterior.

    Args:
        epochs: Passes over the data, at least 1.
        optimizer: Any optimiser of torch; Adam with rate 1e-3 if not given.
        schedule: Any learning-rate schedule of torch, or None.
        prior_scale: $\sigma$, positive.
        kl_weight: $\lambda$, positive; 1 is Bayes.
        initial_stddev: The standard deviation at the start, positive.
        local_reparameterization: Whether noise is drawn at the outputs of dense and convolutional layers, for
            gradients of lower variance, rather than at the weights.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        C. Blundell et al. (2015), "Weight uncertainty in neural networks", ICML, arXiv 1505.05424, equations 2 and 8;
        D. P. Kingma, T. Salimans, M. Welling (2015), arXiv 1506.02557 (local reparameterisation);
        F. Wenzel et al. (2020), "How good is the Bayes posterior", ICML, arXiv 2002.02405 (a weight as temperature).

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = MeanFieldVI(epochs=2).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.kind, sorted(result.posterior.mean)
        ('diagonal_gaussian', ['bias', 'weight'])
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        epochs: int = 20,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        prior_scale: float = 0.1,
        kl_weight: float = 1.0,
        initial_stddev: float = 0.01,
        local_reparameterization: bool = True,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule)
        named = {"prior_scale": prior_scale, "kl_weight": kl_weight, "initial_stddev": initial_stddev}
        for name, value in named.items():
            if not (value > 0 and math.isfinite(value)):
                message = f"expected a positive `{name}`, got {value!r}"
                raise InvalidInputError(message)
        self._prior_scale, self._kl_weight, self._initial_stddev = prior_scale, kl_weight, initial_stddev
        self._local = local_reparameterization

    @override
    def _options(self) -> tuple[object, ...]:
        return self._prior_scale, self._kl_weight, self._initial_stddev, self._local

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(
            problem,
            model,
            rho=math.log(math.expm1(self._initial_stddev)),
            prior_scale=self._prior_scale,
            kl_factor=self._kl_weight / problem.num_examples,
            local=self._local,
        )


@final
class _Objective(AbstractObjective):
    """The negative evidence lower bound per example."""

    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        *,
        rho: float,
        prior_scale: float,
        kl_factor: float,
        local: bool,
    ) -> None:
        start: dict[str, Tensor] = dict(model.module.named_parameters())
        parameters = {f"mean/{name}": tensor for name, tensor in start.items()}
        parameters |= {f"rho/{name}": torch.full_like(tensor, rho) for name, tensor in start.items()}
        super().__init__(problem, model, parameters)
        self._names = list(start)
        self._prior_scale = prior_scale
        self._kl_factor = kl_factor
        self._network: LocalReparameterization | None = None
        self._local = local

    @override
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        mean, stddev = self._moments()
        outputs = self._run(mean, stddev, inputs)
        self.problem.likelihood.check(outputs, targets)
        divergence = torch.stack([
            isotropic_kl(mean[name], stddev[name], self._prior_scale) for name in self._names
        ]).sum()
        return -self.problem.likelihood.log_prob(outputs, targets).mean() + self._kl_factor * divergence

    @override
    def posterior(self) -> Posterior:
        mean, stddev = self._moments()
        return DiagonalGaussianPosterior(
            {name: tensor.detach().clone() for name, tensor in mean.items()},
            {name: tensor.detach().clone() for name, tensor in stddev.items()},
            buffers={name: buffer.detach().clone() for name, buffer in self.buffers.items()},
        )

    def _moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mean = {name: self.parameters[f"mean/{name}"] for name in self._names}
        stddev = {name: functional.softplus(self.parameters[f"rho/{name}"]) for name in self._names}
        return mean, stddev

    def _run(self, mean: dict[str, Tensor], stddev: dict[str, Tensor], inputs: Tensor) -> Tensor:
        if self._network is None:
            # Two examples are enough to see which layers are called, and normalisation layers need more than one.
            self._network = LocalReparameterization(
                self.model, inputs[:2], {**mean, **self.buffers}, self.problem.generator, enabled=self._local
            )
        return self._network(mean, stddev, self.buffers, inputs)
