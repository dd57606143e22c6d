"""Maximum a posteriori: the point of highest posterior density."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.prior import PriorScale, check_scale
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
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
        prior_scale: $\sigma$, for all parameters or by pattern of their names; infinity for a flat prior (maximum
            likelihood).
        patience: Epochs without a better validation loss after which training ends; None trains all epochs.

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
        prior_scale: PriorScale = 1.0,
        patience: int | None = None,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule, patience=patience)
        check_scale(prior_scale)
        self._prior_scale = prior_scale

    @override
    def _options(self) -> tuple[object, ...]:
        return (self._prior_scale,)

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, members=1, prior_scale=self._prior_scale)


@final
class _Objective(AbstractStackedObjective):
    @override
    def posterior(self) -> Posterior:
        parameters, buffers = self.copies(0)
        return PointPosterior(parameters, buffers=buffers, prior=self.prior)
