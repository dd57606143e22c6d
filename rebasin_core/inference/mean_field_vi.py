"""Mean-field variational inference: independent Gaussians that maximise the evidence lower bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_args

import torch
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.prior import PriorScale, check_scale, chosen_names, scales_of
from rebasin_core.inference.symmetrized import independent_log_prob, information_lower_bound
from rebasin_core.inference.weight_noise import EstimatorName, WeightNoise
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class _Options:
    """What the objective is made of; the arguments of `MeanFieldVI`."""

    prior_scale: PriorScale
    kl_weight: float
    kl_warmup: int
    initial_stddev: float
    estimator: EstimatorName
    sticking_the_landing: bool
    stochastic: tuple[str, ...] | None
    moped: float | None
    symmetry_elements: int

    def check(self) -> None:
        """Refuse options that are out of range, or do not go together."""
        check_scale(self.prior_scale)
        positive = {"kl_weight": self.kl_weight, "initial_stddev": self.initial_stddev, "moped": self.moped}
        for name, value in positive.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                message = f"expected a positive `{name}`, got {value!r}"
                raise InvalidInputError(message)
        if self.estimator not in get_args(EstimatorName) or self.kl_warmup < 0 or self.symmetry_elements < 0:
            message = (
                f"expected an estimator among {get_args(EstimatorName)}, and `kl_warmup` and `symmetry_elements` of at "
                f"least 0, got {self.estimator!r}, {self.kl_warmup!r} and {self.symmetry_elements!r}"
            )
            raise InvalidInputError(message)
        if (self.sticking_the_landing or self.symmetry_elements) and self.estimator != "weights":
            message = (
                "`sticking_the_landing` and `symmetry_elements` need draws of the weights: set estimator='weights'"
            )
            raise InvalidInputError(message)


@final
class MeanFieldVI(AbstractGradientInference):
    r"""Fits $q = \mathcal N(m, \mathrm{diag}(s^2))$ by minimising the negative evidence lower bound per example.

    $$ -\frac1B \sum_{i \in \text{batch}} \mathbb E_q \log p(y_i \mid x_i, \theta)
       + \frac{\lambda}{N} \, \mathrm{KL}\big(q \,\|\, \mathcal N(\mu, \sigma^2)\big), $$

    with the true, summed divergence. The means start where the model stands; $s = \log(1 + e^\rho)$ starts at
    ``initial_stddev``. With $\lambda = T < 1$ the likelihood counts $1/T$ times: a tempered ("cold") posterior.

    Args:
        epochs: Passes over the data, at least 1.
        optimizer: Any optimiser of torch; Adam with rate 1e-3 if not given.
        schedule: Any learning-rate schedule of torch, or None.
        prior_scale: $\sigma$, positive: for all parameters, or by pattern of their names (the first match counts).
        kl_weight: $\lambda$, positive; 1 is Bayes.
        kl_warmup: Epochs in which the weight of the divergence rises linearly to $\lambda$.
        initial_stddev: The standard deviation at the start, positive.
        estimator: How the expectation is estimated: ``local`` (noise at the outputs of layers), ``flipout``, or
            ``weights`` (one draw for the batch).
        sticking_the_landing: Whether the divergence is estimated at the draw, without the gradient that vanishes in
            expectation; needs ``weights``.
        stochastic: Patterns of the parameters that are random (``layers.3.*``: a last layer); the others are trained to
            a point under the same prior. All if not given.
        moped: Start from a trained model: the prior's mean $\mu$ is where the model stands, and the standard deviations
            start at this fraction of the weights' sizes.
        symmetry_elements: If positive, the permutation-invariant bound: the mutual information that symmetrising $q$
            would add is bounded from below with as many random permutations, and added. Needs ``weights`` and a spec.
        patience: Epochs without a better validation loss (at the means) after which training ends.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        C. Blundell et al. (2015), "Weight uncertainty in neural networks", ICML, arXiv 1505.05424, equations 2 and 8;
        G. Roeder, Y. Wu, D. Duvenaud (2017), "Sticking the landing", NeurIPS, arXiv 1703.09194; R. Krishnan, M.
        Subedar, O. Tickoo (2020), "Specifying weight priors in Bayesian deep neural networks with empirical Bayes"
        (MOPED), AAAI, arXiv 1906.05323; F. Wenzel et al. (2020), arXiv 2002.02405 (a weight as temperature); Y. Gelberg
        et al. (2024), "Variational inference failures under model symmetries", arXiv 2408.05496 (the invariant bound).

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
        prior_scale: PriorScale = 0.1,
        kl_weight: float = 1.0,
        kl_warmup: int = 0,
        initial_stddev: float = 0.01,
        estimator: EstimatorName = "local",
        sticking_the_landing: bool = False,
        stochastic: Sequence[str] | None = None,
        moped: float | None = None,
        symmetry_elements: int = 0,
        patience: int | None = None,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule, patience=patience)
        self._chosen = _Options(
            prior_scale,
            kl_weight,
            kl_warmup,
            initial_stddev,
            estimator,
            sticking_the_landing,
            None if stochastic is None else tuple(stochastic),
            moped,
            symmetry_elements,
        )
        self._chosen.check()

    @override
    def _options(self) -> tuple[object, ...]:
        return (self._chosen,)

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        if self._chosen.symmetry_elements and problem.layout is None:
            message = "`symmetry_elements` needs the symmetries of the network; give `spec` to `fit`"
            raise InvalidInputError(message)
        if problem.compiled and self._chosen.estimator != "weights":
            message = (
                f"the noise of estimator={self._chosen.estimator!r} is added by hooks, which are not compiled: set "
                "estimator='weights', or leave `compiled` out"
            )
            raise InvalidInputError(message)
        return _Objective(problem, model, self._chosen)


@final
class _Objective(AbstractObjective):
    """The negative evidence lower bound per example."""

    def __init__(self, problem: FitProblem, model: FunctionalModel, options: _Options) -> None:
        start: dict[str, Tensor] = {n: t.detach() for n, t in model.module.named_parameters()}
        random = chosen_names(list(start), options.stochastic, "stochastic")
        initial = {
            name: torch.full_like(start[name], options.initial_stddev)
            if options.moped is None
            else (options.moped * start[name].abs()).clamp_min(1e-6)
            for name in random
        }
        parameters = {f"mean/{name}": tensor for name, tensor in start.items()}
        parameters |= {f"rho/{name}": tensor.expm1().log() for name, tensor in initial.items()}
        super().__init__(problem, model, parameters)
        self._names, self._random, self._chosen = list(start), random, options
        scales = scales_of(start, options.prior_scale)
        centres = {n: t.new_zeros(()) if options.moped is None else t.clone() for n, t in start.items()}

        def prior(names: Sequence[str]) -> GaussianPrior:
            return GaussianPrior({n: centres[n] for n in names}, {n: start[n].new_tensor(scales[n]) for n in names})

        self._random_prior = prior(random)
        points = [name for name in start if name not in initial]
        self._point_prior = prior(points) if points else None
        self._network: WeightNoise | None = None
        self._weight = options.kl_weight

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        warmup = self._chosen.kl_warmup * self.problem.num_batches
        self._weight = self._chosen.kl_weight * min(1.0, (step + 1) / warmup if warmup else 1.0)

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
        """Return the divergence from the prior, and minus the log prior of the parameters that are points."""
        if self._chosen.sticking_the_landing:
            centre, spread = ({n: part[n].detach() for n in self._random} for part in (mean, stddev))
            total = independent_log_prob(centre, spread, drawn) - self._random_prior.log_prob(drawn)
        else:
            total = self._random_prior.kl(mean, stddev)
        if self._point_prior is not None:
            total -= self._point_prior.log_prob(mean)
        if self._chosen.symmetry_elements and self.problem.layout is not None:
            elements = [
                Permutation.random(self.problem.layout, generator=self.problem.generator)
                for _ in range(self._chosen.symmetry_elements)
            ]
            total -= information_lower_bound(mean, stddev, drawn, elements)
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
            # Two examples are enough to see which layers are called, and normalisation layers need more than one.
            self._network = WeightNoise(
                self.model.compiled() if self.problem.compiled else self.model,
                inputs[:2],
                {**mean, **self.buffers},
                self.problem.generator,
                estimator=self._chosen.estimator,
            )
        return self._network(mean, stddev, self.buffers, inputs)
