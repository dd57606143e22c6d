"""Maximum a posteriori: the point of highest posterior density."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
    from rebasin_core.posteriors.base import Posterior


@final
class MAPInference(AbstractGradientInference):
    r"""Minimises $-\frac1N \log p(\theta \mid D)$ up to a constant, with prior $\mathcal N(0, \sigma^2 I)$.

    $$ -\frac1B \sum_{i \in \text{batch}} \log p(y_i \mid x_i, \theta) + \frac{\lVert\theta\rVert^2}{2 \sigma^2 N} $$

    Args:
        epochs: Passes over the data, at least 1.
        optimizer: Any optimiser of torch; Adam with rate 1e-3 if not given.
        schedule: Any learning-rate schedule of torch, or None.
        prior_scale: $\sigma$, positive; infinity for a flat prior (maximum likelihood).

    Raises:
        InvalidInputError: If an option is out of range.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = MAPInference(epochs=2).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.kind, len(result.history)
        ('point', 2)
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        prior_scale: float = 1.0,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule)
        if not prior_scale > 0:
            message = f"expected a positive `prior_scale`, got {prior_scale!r}"
            raise InvalidInputError(message)
        self._prior_scale = prior_scale

    @override
    def _options(self) -> tuple[object, ...]:
        return (self._prior_scale,)

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self._prior_scale)


@final
class _Objective(AbstractObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, prior_scale: float) -> None:
        super().__init__(problem, model, dict(model.module.named_parameters()))
        self._precision = 0.0 if math.isinf(prior_scale) else 1 / (prior_scale**2 * problem.num_examples)

    @override
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self.model({**self.parameters, **self.buffers}, inputs)
        self.problem.likelihood.check(outputs, targets)
        loss = -self.problem.likelihood.log_prob(outputs, targets).mean()
        if self._precision:
            loss += 0.5 * self._precision * torch.stack([p.square().sum() for p in self.parameters.values()]).sum()
        return loss

    @override
    def posterior(self) -> Posterior:
        return PointPosterior(
            {name: p.detach().clone() for name, p in self.parameters.items()},
            buffers={name: b.detach().clone() for name, b in self.buffers.items()},
        )
