"""SWAG and multi-SWAG: a low-rank Gaussian from the iterates of stochastic gradient descent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self, final

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.evaluation.normalization import refreshed_buffers
from rebasin_core.inference.gradient import AbstractGradientInference
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.inference.options import PositiveFinite, PriorScale
from rebasin_core.inference.stacked import AbstractStackedObjective, require_entrywise
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.mixture import MixturePosterior

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.inference.training import Optimization
    from rebasin_core.posteriors.base import Posterior

_COUNT = "collected"
# A covariance needs two deviations.
_LEAST_COLLECTED = 2


@final
class SWAG(AbstractGradientInference):
    r"""Trains a network, and estimates mean and covariance from its iterates in the last epochs.

    $$ q = \mathcal N\Big(\bar\theta,\; s \big(\Sigma_{\mathrm{diag}} + \tfrac{1}{K - 1} \hat D \hat D^\top\big)\Big) $$

    with the mean $\bar\theta$ and the variances $\Sigma_{\mathrm{diag}}$ of the iterates after each collecting epoch,
    and in $\hat D$ the last K deviations from the running mean. The low-rank part couples all layers. Normalization
    statistics are recomputed at the mean.

    Raises:
        ConfigError: If an option is invalid.

    References:
        W. Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS, arXiv
        1902.02476, algorithm 1; A. Wilson, P. Izmailov (2020), "Bayesian deep learning and a probabilistic perspective
        of generalization", NeurIPS, arXiv 2002.08791 (multi-SWAG).

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SWAG(epochs=6, start=2, rank=3).fit(torch.nn.Linear(1, 2), data).posterior.kind
        'low_rank_gaussian'
    """

    name: Literal["swag"] = "swag"

    epochs: PositiveInt = 40
    """Number of passes over the data, collecting ones included."""

    # Built on use: torch checks its options, for which it imports its compiler.
    optimizer: OptimizerSpec = Field(default_factory=lambda: OptimizerSpec(name="SGD", lr=0.05, momentum=0.9))
    """Optimizer, any of ``torch.optim``; SGD with learning rate 0.05 and momentum 0.9 if not given."""

    schedule: ScheduleSpec | None = None
    """Learning-rate schedule of ``torch.optim.lr_scheduler``, for the epochs before collecting."""

    start: NonNegativeInt | None = None
    """The epoch after which collecting begins; half of all epochs if not given."""

    rank: Annotated[int, Field(ge=_LEAST_COLLECTED)] = 20
    """Number K of deviations; as many as there are collecting epochs if these are fewer."""

    scale: PositiveFinite = 0.5
    """Factor $s$ of the covariance; one half in the paper."""

    learning_rate: PositiveFinite | None = None
    """Constant learning rate while collecting; that of the optimizer and schedule if not given."""

    members: PositiveInt = 1
    """1 for SWAG; more for multi-SWAG: a mixture of as many, trained in parallel from different initializations."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat
    prior."""

    least_variance: NonNegativeFloat = 1e-30
    """Lower bound of the variances: smaller ones are raised to it."""

    together: bool = True
    """Whether several networks are run in one batch if that is possible."""

    @model_validator(mode="after")
    def _check_collecting(self) -> Self:
        if self.num_collected < _LEAST_COLLECTED:
            start = self.collecting_start
            message = f"expected at least two epochs after `start`, got start={start} and epochs={self.epochs}"
            raise ValueError(message)
        require_entrywise(self.optimizer.name, self.members)
        return self

    @property
    def collecting_start(self) -> int:
        """The epoch after which collecting begins."""
        return self.epochs // 2 if self.start is None else self.start

    @property
    def num_collected(self) -> int:
        """Number of epochs after which iterates are collected."""
        return self.epochs - self.collecting_start

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self)

    @override
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        return self._scheduled(objective, self.optimizer, self.schedule)


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: SWAG) -> None:
        super().__init__(
            problem, model, members=method.members, prior_scale=method.prior_scale, together=method.together
        )
        self._method = method
        self._rank = min(method.rank, method.num_collected)
        self.memory[_COUNT] = torch.zeros((), dtype=torch.int64)
        for name, tensor in self.parameters.items():
            self.memory[f"mean/{name}"] = torch.zeros_like(tensor, requires_grad=False)
            self.memory[f"squares/{name}"] = torch.zeros_like(tensor, requires_grad=False)
            self.memory[f"deviations/{name}"] = tensor.new_zeros((self._rank, *tensor.shape), requires_grad=False)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        rate = self._method.learning_rate
        if rate is not None and step >= self._method.collecting_start * self.problem.num_batches:
            for group in optimizer.param_groups:
                group["lr"] = rate

    @override
    def end_epoch(self, epoch: int) -> None:
        if epoch < self._method.collecting_start:
            return
        count = self.memory[_COUNT]
        count += 1
        number = int(count)
        for name, parameter in self.parameters.items():
            value = parameter.detach()
            mean = self.memory[f"mean/{name}"]
            before = value - mean
            mean += before / number
            # Welford: the sum of squared deviations, without a difference of large numbers.
            self.memory[f"squares/{name}"] += before * (value - mean)
            self.memory[f"deviations/{name}"][(number - 1) % self._rank].copy_(value - mean)

    @override
    def posterior(self) -> Posterior:
        components = [self._component(member) for member in range(self.members)]
        return components[0] if self.members == 1 else MixturePosterior(components)

    def _component(self, member: int) -> Posterior:
        method = self._method
        count = int(self.memory[_COUNT])
        kept = min(count, self._rank)

        def collected(part: str, select: tuple[int | slice, ...]) -> dict[str, Tensor]:
            return {name: self.memory[f"{part}/{name}"][select].clone() for name in self.parameters}

        mean = collected("mean", (member,))
        squares = collected("squares", (member,))
        deviations = collected("deviations", (slice(kept), member))
        return LowRankGaussianPosterior(
            mean,
            {n: (method.scale * (t / count).clamp_min(method.least_variance)).sqrt() for n, t in squares.items()},
            {n: t * math.sqrt(method.scale / (kept - 1)) for n, t in deviations.items()},
            buffers=refreshed_buffers(self.problem.model, mean, self.problem.data),
            prior=self.prior,
        )
