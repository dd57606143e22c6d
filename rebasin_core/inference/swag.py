"""SWAG and multi-SWAG: a low-rank Gaussian from the path of stochastic gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.normalization import refreshed_buffers
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.optimizer import OptimizerSpec
from rebasin_core.inference.prior import PriorScale, check_scale
from rebasin_core.inference.stacked import AbstractStackedObjective, require_entrywise
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.mixture import MixturePosterior

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import ScheduleSpec
    from rebasin_core.posteriors.base import Posterior

_COUNT = "collected"


@final
@dataclass(frozen=True, slots=True)
class _Options:
    """What is collected: when it begins, how many deviations are kept, how the covariance is scaled."""

    start: int
    rank: int
    scale: float
    learning_rate: float | None
    least_variance: float


@final
class SWAG(AbstractGradientInference):
    r"""Trains a network, and takes mean and covariance from where it goes in the last epochs.

    $$ q = \mathcal N\Big(\bar\theta,\; s \big(\Sigma_{\mathrm{diag}} + \tfrac{1}{K - 1} \hat D \hat D^\top\big)\Big) $$

    with the mean $\bar\theta$ and the variances $\Sigma_{\mathrm{diag}}$ of the iterates after each collecting epoch,
    and in $\hat D$ the last K deviations from the running mean. The low-rank part couples all layers. Normalisation
    statistics are taken afresh at the mean.

    Args:
        epochs: Passes over the data, collecting ones included.
        start: The epoch after which collecting begins; half of all epochs if not given.
        rank: The number K of deviations, at least 2.
        scale: The factor $s$; the paper's is one half.
        learning_rate: The constant rate while collecting; the optimiser's own if not given.
        members: 1 for SWAG; more for multi-SWAG: a mixture of as many, trained side by side from other first values.
        optimizer: An optimiser of torch; SGD with rate 0.05 and momentum 0.9 if not given.
        schedule: Any learning-rate schedule of torch, for the epochs before collecting.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat one.
        least_variance: Variances below it are raised to it.
        together: Whether to run several networks at once where that is possible.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        W. Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS, arXiv
        1902.02476, algorithm 1; A. Wilson, P. Izmailov (2020), "Bayesian deep learning and a probabilistic perspective
        of generalization", NeurIPS, arXiv 2002.08791 (multi-SWAG).

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SWAG(epochs=6, start=2, rank=3).fit(torch.nn.Linear(1, 2), data).posterior.kind
        'low_rank_gaussian'
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        epochs: int = 40,
        start: int | None = None,
        rank: int = 20,
        scale: float = 0.5,
        learning_rate: float | None = None,
        members: int = 1,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        prior_scale: PriorScale = 1.0,
        least_variance: float = 1e-30,
        together: bool = True,
    ) -> None:
        optimizer = optimizer or OptimizerSpec("SGD", {"lr": 0.05, "momentum": 0.9})
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule)
        start = epochs // 2 if start is None else start
        # A covariance needs two deviations.
        if min(rank - 2, epochs - start - 2, start, members - 1) < 0 or not (scale > 0 and least_variance >= 0):
            message = (
                "expected `rank` of at least 2, at least two epochs after `start`, `members` of at least 1 and a "
                f"positive `scale`, got {rank!r}, {epochs - start!r}, {members!r} and {scale!r}"
            )
            raise InvalidInputError(message)
        check_scale(prior_scale)
        require_entrywise(optimizer.name, members)
        self._collecting = _Options(start, min(rank, epochs - start), scale, learning_rate, least_variance)
        self._members, self._prior_scale, self._together = members, prior_scale, together

    @override
    def _options(self) -> tuple[object, ...]:
        return self._collecting, self._members, self._prior_scale

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(
            problem,
            model,
            members=self._members,
            prior_scale=self._prior_scale,
            together=self._together,
            collecting=self._collecting,
        )


@final
class _Objective(AbstractStackedObjective):
    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        *,
        members: int,
        prior_scale: PriorScale,
        together: bool,
        collecting: _Options,
    ) -> None:
        super().__init__(problem, model, members=members, prior_scale=prior_scale, together=together)
        self._collecting = collecting
        self.memory[_COUNT] = torch.zeros((), dtype=torch.int64)
        for name, tensor in self.parameters.items():
            self.memory[f"mean/{name}"] = torch.zeros_like(tensor, requires_grad=False)
            self.memory[f"squares/{name}"] = torch.zeros_like(tensor, requires_grad=False)
            self.memory[f"deviations/{name}"] = tensor.new_zeros((collecting.rank, *tensor.shape), requires_grad=False)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        if self._collecting.learning_rate is not None and step >= self._collecting.start * self.problem.num_batches:
            for group in optimizer.param_groups:
                group["lr"] = self._collecting.learning_rate

    @override
    def end_epoch(self, epoch: int) -> None:
        if epoch < self._collecting.start:
            return
        count = self.memory[_COUNT]
        count += 1
        number = int(count)
        for name, parameter in self.parameters.items():
            value, mean = parameter.detach(), self.memory[f"mean/{name}"]
            before = value - mean
            mean += before / number
            # Welford: the sum of squared deviations, without a difference of large numbers.
            self.memory[f"squares/{name}"] += before * (value - mean)
            self.memory[f"deviations/{name}"][(number - 1) % self._collecting.rank].copy_(value - mean)

    @override
    def posterior(self) -> Posterior:
        components = [self._component(member) for member in range(self.members)]
        return components[0] if self.members == 1 else MixturePosterior(components)

    def _component(self, member: int) -> Posterior:
        count, options = int(self.memory[_COUNT]), self._collecting
        kept = min(count, options.rank)

        def collected(part: str, select: tuple[int | slice, ...]) -> dict[str, Tensor]:
            return {name: self.memory[f"{part}/{name}"][select].clone() for name in self.parameters}

        mean = collected("mean", (member,))
        squares = collected("squares", (member,))
        deviations = collected("deviations", (slice(kept), member))
        return LowRankGaussianPosterior(
            mean,
            {n: (options.scale * (t / count).clamp_min(options.least_variance)).sqrt() for n, t in squares.items()},
            {n: t * math.sqrt(options.scale / (kept - 1)) for n, t in deviations.items()},
            buffers=refreshed_buffers(self.problem.model, mean, self.problem.data),
            prior=self.prior,
        )
