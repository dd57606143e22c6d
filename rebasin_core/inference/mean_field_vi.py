"""Mean-field variational inference: independent Gaussians that maximize the evidence lower bound (ELBO)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, final

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
    from rebasin_core.tensors.inputs import AnyInputs

# Schedules that set learning rates by their own options, and ignore those of the parameter groups.
_ABSOLUTE_SCHEDULES = frozenset({"OneCycleLR", "CyclicLR"})


@final
class MeanFieldVI(AbstractOptimizedInference):
    r"""Mean-field variational inference: fit $q = \mathcal N(m, \mathrm{diag}(s^2))$ by maximizing the ELBO.

    The objective is the negative evidence lower bound (ELBO) per example,

    $$ -\frac1B \sum_{i \in \text{batch}} \mathbb E_q \log p(y_i \mid x_i, \theta)
       - \frac{\lambda}{N} \Big( \mathbb E_q \log p(\theta) + T \, H(q) \Big), \qquad
       p(\theta) = \mathcal N(\mu, \sigma^2), $$

    with $N$ examples in the dataset; the expected log prior and the entropy $H$ are sums over all parameters. For
    $T = 1$ the second term is $\frac{\lambda}{N} \mathrm{KL}(q \,\|\, p)$. The optimal $q$ approximates

    $$ \Big( p(D \mid \theta)^{1 / \lambda} \, p(\theta) \Big)^{1 / T}. $$

    The *temperature* $T$ tempers likelihood and prior, as in `SGLD` and `SGHMC`: $T < 1$ is a *cold posterior*. The
    *KL weight* $\lambda$ tempers the likelihood only, which is raised to the power $1 / \lambda$ under an unchanged
    prior: $\lambda < 1$ is a *tempered posterior*. For a centered prior, $\lambda = T$ with the prior scale $\sigma$
    is equivalent to the cold posterior of temperature $T$ with the prior scale $\sigma / \sqrt T$.

    The means $m$ are initialized at the parameters of the model, and $s = \log(1 + e^\rho)$ at ``initial_stddev``.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if an input that the options require is missing.

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
    r"""Standard deviation $\sigma$ of the prior, positive and finite; a number, or a mapping from name patterns (the
    first match applies)."""

    prior_fan_in: bool = False
    r"""Whether the prior scale of tensors with several dimensions is divided by the square root of their fan-in: with
    ``prior_scale`` $\sqrt 2$, a prior of the scale of He et al. (2015), under which networks of all widths have
    activations of the same scale."""

    kl_weight: PositiveFinite = 1.0
    r"""Weight $\lambda$ of the KL term, positive; 1 is the Bayesian posterior, smaller values temper the likelihood
    only."""

    temperature: PositiveFinite = 1.0
    """Temperature $T$, positive; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and
    prior are tempered."""

    kl_warmup: NonNegativeInt = 0
    r"""Number of epochs over which the weight of the KL term increases linearly to $\lambda$."""

    initial_stddev: PositiveFinite = 0.01
    """Initial standard deviation of the random parameters, positive."""

    relative_stddev: PositiveFinite | None = None
    """Initial standard deviations relative to the root mean square of each tensor of the model, positive, for a model
    that is trained already; tensors of zeros have ``initial_stddev``. All have ``initial_stddev`` if None."""

    stddev_lr: PositiveFinite | None = None
    r"""Learning rate of the parameters $\rho$ of the standard deviations, positive; that of the optimizer if None. A
    schedule multiplies both."""

    estimator: EstimatorName = "local"
    """Estimator of the expected log likelihood. ``local``: local reparameterization, which samples pre-activations.
    ``flipout``: one weight sample per batch, with random signs for each example. ``weights``: one weight sample per
    batch."""

    sticking_the_landing: bool = False
    """Whether to estimate the KL term at the weight sample and to omit the score term of its gradient, which has
    expectation zero; needs ``weights``."""

    stochastic: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """Name patterns of the random parameters (``layers.3.*`` for a last layer); the others become MAP estimates under
    the same prior. All parameters are random if None."""

    moped: PositiveFinite | None = None
    r"""MOPED factor $\delta$, positive, for a trained model with weights $w$: the prior mean $\mu$ is $w$, and $s$ is
    initialized at $\max(\delta |w|, 10^{-6})$. The prior mean is zero if None."""

    num_permutations: NonNegativeInt = 0
    """Number of random permutations in the permutation-invariant ELBO; 0 for the standard ELBO. It adds a lower bound
    of the mutual information between the permutation and the parameters of the symmetrized $q$. Needs ``weights`` and
    a ``spec``."""

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        for option in ("sticking_the_landing", "num_permutations"):
            if getattr(self, option) and self.estimator != "weights":
                message = f"`{option}` requires estimator='weights', got {self.estimator!r}"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _check_initial(self) -> Self:
        if self.moped is not None and self.relative_stddev is not None:
            message = "`moped` and `relative_stddev` both set the initial standard deviations; omit one"
            raise ValueError(message)
        if self.stddev_lr is not None and self.schedule is not None and self.schedule.name in _ABSOLUTE_SCHEDULES:
            message = (
                f"`stddev_lr` needs a schedule that multiplies the learning rates; `{self.schedule.name}` sets one for "
                "all parameters"
            )
            raise ValueError(message)
        return self

    def as_map(self) -> MAPInference:
        r"""Return a MAP method with the same regularization of the weights, for comparison.

        The objective contains $\frac{\lambda}{N} \frac{m^2}{2 \sigma^2}$ for every mean. `MAPInference` with the prior
        scale $\sigma / \sqrt\lambda$ has the same term for every weight. The temperature scales the entropy and does
        not affect this term. Epochs, optimizer, schedule and patience are the same.

        Returns:
            The MAP method.

        Raises:
            InvalidInputError: If ``moped`` is set, since its prior is not centered.
        """
        if self.moped is not None:
            message = "expected a centered prior for MAP, got `moped`, whose prior mean is the model; omit `moped`"
            raise InvalidInputError(message)
        wider = self.kl_weight**-0.5
        scale = self.prior_scale
        return MAPInference(
            epochs=self.epochs,
            optimizer=self.optimizer,
            schedule=self.schedule,
            patience=self.patience,
            max_grad_norm=self.max_grad_norm,
            augmentation=self.augmentation,
            precision=self.precision,
            prior_fan_in=self.prior_fan_in,
            prior_scale={pattern: wider * value for pattern, value in scale}
            if isinstance(scale, tuple)
            else wider * scale,
        )

    @property
    @override
    def uses_spec(self) -> bool:
        return self.num_permutations > 0

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        if self.num_permutations and problem.layout is None:
            message = "`num_permutations` requires the symmetries of the network; pass `spec` to `fit`"
            raise InvalidInputError(message)
        if problem.compiled and self.estimator != "weights":
            message = (
                f"`compiled` requires estimator='weights', got {self.estimator!r}, whose noise is added by "
                "intercepting operators"
            )
            raise InvalidInputError(message)
        return _Objective(problem, model, self)


@final
class _Objective(AbstractObjective):
    """The negative evidence lower bound per example."""

    def __init__(self, problem: FitProblem, model: FunctionalModel, method: MeanFieldVI) -> None:
        initial: dict[str, Tensor] = {n: t.detach() for n, t in model.module.named_parameters()}
        random = chosen_names(list(initial), method.stochastic, "stochastic")
        stddev = {name: _initial_stddev(initial[name], method) for name in random}
        parameters = {f"mean/{name}": tensor for name, tensor in initial.items()}
        # The inverse of softplus: rho = log(exp(s) - 1).
        parameters |= {f"rho/{name}": tensor.expm1().log() for name, tensor in stddev.items()}
        super().__init__(problem, model, parameters)
        self._method = method
        self._names = list(initial)
        self._random = random
        points = [name for name in initial if name not in stddev]
        self._random_prior = _prior(initial, random, method)
        self._point_prior = _prior(initial, points, method) if points else None
        self._network: WeightNoise | None = None
        self._weight = method.kl_weight

    @override
    def groups(self) -> list[dict[str, Any]]:
        rate = self._method.stddev_lr
        if rate is None:
            return super().groups()
        parts = {
            prefix: [t for n, t in self.parameters.items() if n.startswith(prefix)] for prefix in ("mean/", "rho/")
        }
        return [{"params": parts["mean/"]}, {"params": parts["rho/"], "lr": rate}]

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        warmup = self._method.kl_warmup * self.problem.num_batches
        self._weight = self._method.kl_weight * min(1.0, (step + 1) / warmup if warmup else 1.0)

    @override
    def loss(self, inputs: AnyInputs, targets: Tensor) -> Tensor:
        mean, stddev = self._moments()
        outputs, sample = self._run(mean, stddev, inputs)
        self.problem.likelihood.check(outputs, targets)
        divergence = self._divergence(mean, stddev, sample)
        return (
            -self.problem.likelihood.log_prob(outputs, targets).mean()
            + self._weight / self.problem.num_examples * divergence
        )

    def _divergence(self, mean: dict[str, Tensor], stddev: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        """Return -E_q[log p(theta)] - T H(q), which is KL(q || p) for T = 1."""
        temperature = self._method.temperature
        if self._method.sticking_the_landing:
            # Detached in the density: only the path derivative remains (Roeder et al. 2017).
            fixed_mean = {name: mean[name].detach() for name in self._random}
            fixed_stddev = {name: stddev[name].detach() for name in self._random}
            total = temperature * _log_density(fixed_mean, fixed_stddev, sample) - self._random_prior.log_prob(sample)
        else:
            total = self._random_prior.kl(mean, stddev)
            if temperature != 1:
                total += (1 - temperature) * _entropy(stddev)
        if self._point_prior is not None:
            total -= self._point_prior.log_prob(mean)
        if self._method.num_permutations and self.problem.layout is not None:
            elements = [
                Permutation.random(self.problem.layout, generator=self.problem.generator)
                for _ in range(self._method.num_permutations)
            ]
            permuted = [_log_density(mean, stddev, element.apply(sample)) for element in elements]
            total -= temperature * symmetrization_bound(_log_density(mean, stddev, sample), torch.stack(permuted))
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
        self, mean: dict[str, Tensor], stddev: dict[str, Tensor], inputs: AnyInputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self._network is None:
            # Two examples show which layers are called; normalization layers need more than one.
            self._network = WeightNoise(
                self.model.compiled() if self.problem.compiled else self.model,
                inputs[:2],
                {**mean, **self.buffers},
                self.problem.generator,
                estimator=self._method.estimator,
            )
        return self._network(mean, stddev, self.buffers, inputs)


def _initial_stddev(tensor: Tensor, method: MeanFieldVI) -> Tensor:
    """Return the initial standard deviations of a tensor."""
    if method.moped is not None:
        # Bounded from below: a weight of zero would have the initial rho = -inf.
        return (method.moped * tensor.abs()).clamp_min(1e-6)
    size = 0.0 if method.relative_stddev is None else float(tensor.square().mean().sqrt())
    return torch.full_like(tensor, (method.relative_stddev or 0) * size or method.initial_stddev)


def _prior(initial: Mapping[str, Tensor], names: Sequence[str], method: MeanFieldVI) -> GaussianPrior:
    """Return the prior of the named parameters: centered at zero, or at their initial values with MOPED."""
    scales = scales_of(initial, method.prior_scale, by_fan_in=method.prior_fan_in)
    means = {name: initial[name].new_zeros(()) if method.moped is None else initial[name].clone() for name in names}
    return GaussianPrior(means, {name: initial[name].new_tensor(scales[name]) for name in names})


def _log_density(mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the log density of independent Gaussians at ``parameters``, a differentiable scalar in nats."""
    terms = [normal_log_density((parameters[name] - mean[name]) / scale, scale) for name, scale in stddev.items()]
    return torch.stack(terms).sum()


def _entropy(stddev: Mapping[str, Tensor]) -> Tensor:
    """Return the entropy of independent Gaussians, a scalar in nats."""
    constant = 0.5 * math.log(2 * math.pi * math.e)
    return torch.stack([scale.log().sum() + scale.numel() * constant for scale in stddev.values()]).sum()
