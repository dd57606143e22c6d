"""Mean-field variational inference: independent Gaussians that maximize the evidence lower bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self, final

import torch
from annotated_types import MinLen
from pydantic import NonNegativeInt, model_validator
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractOptimizedInference
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.objective import AbstractObjective
from rebasin_core.inference.options import PositiveFinite, ProperPriorScale
from rebasin_core.inference.prior import chosen_names, scales_of
from rebasin_core.inference.weight_noise import EstimatorName, WeightNoise
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.statistics import normal_log_density, symmetrization_bound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.posteriors.base import Posterior


@final
class MeanFieldVI(AbstractOptimizedInference):
    r"""Fits $q = \mathcal N(m, \mathrm{diag}(s^2))$ by minimizing the negative evidence lower bound (ELBO) per example.

    $$ -\frac1B \sum_{i \in \text{batch}} \mathbb E_q \log p(y_i \mid x_i, \theta)
       - \frac{\lambda}{N} \Big( \mathbb E_q \log p(\theta) + T \, H(q) \Big), \qquad
       p(\theta) = \mathcal N(\mu, \sigma^2), $$

    with the true, summed expectation and the entropy $H$. For $T = 1$ the second term is
    $\frac{\lambda}{N} \mathrm{KL}(q \,\|\, p)$. The optimal $q$ approximates

    $$ \Big( p(D \mid \theta)^{1 / \lambda} \, p(\theta) \Big)^{1 / T}. $$

    The *temperature* $T$ tempers likelihood and prior, as in `SGLD` and `SGHMC`: $T < 1$ is a *cold posterior*. The
    *KL weight* $\lambda$ tempers the likelihood only: for $\lambda < 1$ it counts $1 / \lambda$ times, and the prior
    stays as it is, a *tempered* posterior. With a centered prior, $\lambda = T$ and the prior scale $\sigma$ give the
    cold posterior of temperature $T$ with the prior scale $\sigma / \sqrt T$.

    The means start at the parameters of the model; $s = \log(1 + e^\rho)$ starts at ``initial_stddev``.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On fitting, if something that the options need is missing.

    References:
        C. Blundell et al. (2015), "Weight uncertainty in neural networks", ICML, arXiv 1505.05424, equations 2 and 8;
        G. Roeder, Y. Wu, D. Duvenaud (2017), "Sticking the landing", NeurIPS, arXiv 1703.09194; R. Krishnan, M.
        Subedar, O. Tickoo (2020), "Specifying weight priors in Bayesian deep neural networks with empirical Bayes"
        (MOPED), AAAI, arXiv 1906.05323; Y. Gelberg et al. (2024), "Variational inference failures under model
        symmetries", arXiv 2408.05496 (the permutation-invariant bound); F. Wenzel et al. (2020), "How good is the Bayes
        posterior in deep neural networks really?", ICML, arXiv 2002.02405, equations 1 and 2 (cold posteriors).

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = MeanFieldVI(epochs=2).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.kind, sorted(result.posterior.mean)
        ('diagonal_gaussian', ['bias', 'weight'])
    """

    name: Literal["mean_field_vi"] = "mean_field_vi"

    prior_scale: ProperPriorScale = 0.1
    r"""Standard deviation $\sigma$ of the prior, for all parameters or by pattern of their names (the first match
    counts)."""

    kl_weight: PositiveFinite = 1.0
    r"""Weight $\lambda$ of the KL divergence from the prior; 1 for the Bayesian posterior, less for a tempered
    likelihood under the same prior."""

    temperature: PositiveFinite = 1.0
    """Temperature $T$: 1 for the posterior, less for a cold one, of which likelihood and prior are tempered."""

    kl_warmup: NonNegativeInt = 0
    r"""Number of epochs in which the weight of the divergence rises linearly to $\lambda$."""

    initial_stddev: PositiveFinite = 0.01
    """Standard deviation at the start of training."""

    estimator: EstimatorName = "local"
    """Estimator of the expectation. ``local``: noise at the outputs of layers (local reparameterization). ``flipout``:
    one draw of the weights, with random signs for every example. ``weights``: one draw of the weights for the batch."""

    sticking_the_landing: bool = False
    """Whether the divergence is estimated at the draw, without the part of the gradient that is zero in expectation;
    needs ``weights``."""

    stochastic: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """Patterns of the random parameters (``layers.3.*``: a last layer); the others are trained to a point under the
    same prior. All parameters are random if not given."""

    moped: PositiveFinite | None = None
    r"""Start from a trained model: the prior's mean $\mu$ is at the model's parameters, and the standard deviations
    start at this fraction of the weights' absolute values."""

    symmetry_elements: NonNegativeInt = 0
    """Number of random permutations with which the permutation-invariant bound is estimated: a lower bound of the
    mutual information that symmetrizing $q$ would add. 0 for the usual ELBO. Needs ``weights``, and a specification."""

    @model_validator(mode="after")
    def _check_draws(self) -> Self:
        for option in ("sticking_the_landing", "symmetry_elements"):
            if getattr(self, option) and self.estimator != "weights":
                message = (
                    f"`{option}` needs draws of the weights, got estimator={self.estimator!r}; set it to 'weights'"
                )
                raise ValueError(message)
        return self

    def as_map(self) -> MAPInference:
        r"""Return the method that trains points under the regularization of the means here, to compare the two.

        The objective here holds $\frac{\lambda}{N} \frac{m^2}{2 \sigma^2}$ for every mean; that of `MAPInference` with
        the prior scale $\sigma / \sqrt\lambda$ holds the same for every weight. The temperature weighs the entropy, and
        leaves this term as it is. Epochs, optimizer, schedule and patience are the same.

        Returns:
            The method.

        Raises:
            InvalidInputError: With ``moped``, whose prior is not centered.
        """
        if self.moped is not None:
            message = "points have a centered prior, and `moped` centers it at a trained model; leave `moped` out"
            raise InvalidInputError(message)
        wider = self.kl_weight**-0.5
        scale = self.prior_scale
        return MAPInference(
            epochs=self.epochs,
            optimizer=self.optimizer,
            schedule=self.schedule,
            patience=self.patience,
            prior_scale={pattern: wider * value for pattern, value in scale}
            if isinstance(scale, tuple)
            else wider * scale,
        )

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        if self.symmetry_elements and problem.layout is None:
            message = "`symmetry_elements` needs the symmetries of the network; give `spec` to `fit`"
            raise InvalidInputError(message)
        if problem.compiled and self.estimator != "weights":
            message = (
                f"the noise of estimator={self.estimator!r} is added by hooks, which are not compiled: set "
                "estimator='weights', or leave `compiled` out"
            )
            raise InvalidInputError(message)
        return _Objective(problem, model, self)


@final
class _Objective(AbstractObjective):
    """The negative evidence lower bound per example."""

    def __init__(self, problem: FitProblem, model: FunctionalModel, method: MeanFieldVI) -> None:
        start: dict[str, Tensor] = {n: t.detach() for n, t in model.module.named_parameters()}
        random = chosen_names(list(start), method.stochastic, "stochastic")
        initial = {
            name: torch.full_like(start[name], method.initial_stddev)
            if method.moped is None
            else (method.moped * start[name].abs()).clamp_min(1e-6)
            for name in random
        }
        parameters = {f"mean/{name}": tensor for name, tensor in start.items()}
        parameters |= {f"rho/{name}": tensor.expm1().log() for name, tensor in initial.items()}
        super().__init__(problem, model, parameters)
        self._method = method
        self._names = list(start)
        self._random = random
        points = [name for name in start if name not in initial]
        self._random_prior = _prior(start, random, method)
        self._point_prior = _prior(start, points, method) if points else None
        self._network: WeightNoise | None = None
        self._weight = method.kl_weight

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        warmup = self._method.kl_warmup * self.problem.num_batches
        self._weight = self._method.kl_weight * min(1.0, (step + 1) / warmup if warmup else 1.0)

    @override
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        mean, stddev = self._moments()
        outputs, drawn = self._run(mean, stddev, inputs)
        self.problem.likelihood.check(outputs, targets)
        divergence = self._divergence(mean, stddev, drawn)
        return (
            -self.problem.likelihood.log_prob(outputs, targets).mean()
            + self._weight / self.problem.num_examples * divergence
        )

    def _divergence(self, mean: dict[str, Tensor], stddev: dict[str, Tensor], drawn: dict[str, Tensor]) -> Tensor:
        """Return the expectation of minus the log prior, less T times the entropy: the divergence for T = 1."""
        temperature = self._method.temperature
        if self._method.sticking_the_landing:
            fixed_mean = {name: mean[name].detach() for name in self._random}
            fixed_stddev = {name: stddev[name].detach() for name in self._random}
            total = temperature * _log_density(fixed_mean, fixed_stddev, drawn) - self._random_prior.log_prob(drawn)
        else:
            total = self._random_prior.kl(mean, stddev)
            if temperature != 1:
                total += (1 - temperature) * _entropy(stddev)
        if self._point_prior is not None:
            total -= self._point_prior.log_prob(mean)
        if self._method.symmetry_elements and self.problem.layout is not None:
            elements = [
                Permutation.random(self.problem.layout, generator=self.problem.generator)
                for _ in range(self._method.symmetry_elements)
            ]
            permuted = [_log_density(mean, stddev, element.apply(drawn)) for element in elements]
            total -= temperature * symmetrization_bound(_log_density(mean, stddev, drawn), torch.stack(permuted))
        return total

    @override
    def points(self) -> list[dict[str, Tensor]]:
        mean, _ = self._moments()
        return [{**{name: tensor.detach() for name, tensor in mean.items()}, **self.buffers}]

    @override
    def posterior(self) -> Posterior:
        mean, stddev = self._moments()
        return DiagonalGaussianPosterior(
            {name: mean[name].detach().clone() for name in self._random},
            copied(stddev),
            buffers=copied(self.buffers),
            fixed={name: mean[name].detach().clone() for name in self._names if name not in stddev},
            prior=self._random_prior,
        )

    def _moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mean = {name: self.parameters[f"mean/{name}"] for name in self._names}
        stddev = {name: functional.softplus(self.parameters[f"rho/{name}"]) for name in self._random}
        return mean, stddev

    def _run(
        self, mean: dict[str, Tensor], stddev: dict[str, Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self._network is None:
            # Two examples are enough to see which layers are called, and normalization layers need more than one.
            self._network = WeightNoise(
                self.model.compiled() if self.problem.compiled else self.model,
                inputs[:2],
                {**mean, **self.buffers},
                self.problem.generator,
                estimator=self._method.estimator,
            )
        return self._network(mean, stddev, self.buffers, inputs)


def _prior(start: Mapping[str, Tensor], names: Sequence[str], method: MeanFieldVI) -> GaussianPrior:
    """Return the prior of some parameters: centered, or around their start with MOPED."""
    scales = scales_of(start, method.prior_scale)
    means = {name: start[name].new_zeros(()) if method.moped is None else start[name].clone() for name in names}
    return GaussianPrior(means, {name: start[name].new_tensor(scales[name]) for name in names})


def _log_density(mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the log density of independent Gaussians at parameters, a scalar in nats, differentiable."""
    terms = [normal_log_density((parameters[name] - mean[name]) / scale, scale) for name, scale in stddev.items()]
    return torch.stack(terms).sum()


def _entropy(stddev: Mapping[str, Tensor]) -> Tensor:
    """Return the entropy of independent Gaussians, a scalar in nats."""
    constant = 0.5 * math.log(2 * math.pi * math.e)
    return torch.stack([scale.log().sum() + scale.numel() * constant for scale in stddev.values()]).sum()
