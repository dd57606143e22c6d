"""SWAG and multi-SWAG: low-rank Gaussians from the iterates of stochastic gradient descent."""

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
# The factor 1 / (K - 1) of the covariance requires K >= 2.
_LEAST_COLLECTED = 2


@final
class SWAG(AbstractGradientInference):
    r"""SWA-Gaussian (SWAG): estimate a mean and a low-rank covariance from the iterates in the last epochs of training.

    $$ q = \mathcal N\Big(\bar\theta,\; s \big(\Sigma_{\mathrm{diag}} + \tfrac{1}{K - 1} \hat D \hat D^\top\big)\Big) $$

    $\bar\theta$ is the mean and $\Sigma_{\mathrm{diag}}$ the diagonal variance of the iterates at the ends of the
    collection epochs. The columns of $\hat D$ are the last K deviations from the running mean. The low-rank part
    correlates all layers. Batch-normalization statistics are recomputed at the mean.

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
    """Number of passes over the data, including the collection epochs."""

    # A factory: torch validates these options, for which it imports its compiler (about a second).
    optimizer: OptimizerSpec = Field(default_factory=lambda: OptimizerSpec(name="SGD", lr=0.05, momentum=0.9))
    """Optimizer of ``torch.optim`` with its options; SGD with learning rate 0.05 and momentum 0.9 by default."""

    schedule: ScheduleSpec | None = None
    """Learning-rate schedule of ``torch.optim.lr_scheduler`` with its options; constant if None."""

    start: NonNegativeInt | None = None
    """Number of epochs before the first collection epoch; half of ``epochs`` if None."""

    rank: Annotated[int, Field(ge=_LEAST_COLLECTED)] = 20
    """Maximum number K of deviations, at least 2; K is the number of collection epochs if that is smaller."""

    scale: PositiveFinite = 0.5
    """Factor $s$ of the covariance, positive; 1/2 in the paper."""

    learning_rate: PositiveFinite | None = None
    """Constant learning rate in the collection epochs, positive; that of optimizer and schedule if None."""

    members: PositiveInt = 1
    """Number of networks: 1 for SWAG; more for multi-SWAG, an equally weighted mixture of SWAG posteriors trained in
    parallel from different initializations."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive; a number, or a mapping from name patterns. Infinity is a
    flat prior."""

    least_variance: NonNegativeFloat = 1e-30
    r"""Lower bound to which the entries of $\Sigma_{\mathrm{diag}}$ are clamped, at least 0."""

    together: bool | None = None
    """Whether to run the networks in one batch (`torch.vmap`) if the model supports it; the result is the same up to
    rounding. If None, the faster way: one batch on a GPU, and for small networks on a CPU."""

    @model_validator(mode="after")
    def _check_collecting(self) -> Self:
        if self.num_collected < _LEAST_COLLECTED:
            start = self.collecting_start
            message = f"expected at least 2 epochs after `start`, got start={start} and epochs={self.epochs}"
            raise ValueError(message)
        require_entrywise(self.optimizer.name, self.members)
        return self

    @property
    def collecting_start(self) -> int:
        """Number of epochs before the first collection epoch."""
        return self.epochs // 2 if self.start is None else self.start

    @property
    def num_collected(self) -> int:
        """Number of collection epochs; one iterate is collected after each."""
        return self.epochs - self.collecting_start

    @property
    @override
    def uses_spec(self) -> bool:
        return False

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
        num_collected = int(count)
        for name, parameter in self.parameters.items():
            value = parameter.detach()
            mean = self.memory[f"mean/{name}"]
            deviation = value - mean
            mean += deviation / num_collected
            # Welford's update of the sum of squared deviations, which avoids the difference of two large numbers.
            self.memory[f"squares/{name}"] += deviation * (value - mean)
            # A ring buffer of the last K deviations.
            self.memory[f"deviations/{name}"][(num_collected - 1) % self._rank].copy_(value - mean)

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
