"""Maximum a posteriori (MAP) estimation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.inference.stacked_inference import AbstractGaussianPriorInference
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior


@final
class MAPInference(AbstractGaussianPriorInference):
    r"""Maximum a posteriori (MAP) estimate: minimize $-\frac1N \log p(\theta \mid D)$ up to a constant.

    The prior is $\mathcal N(0, \sigma^2 I)$, and the objective on a batch

    $$ -\frac1B \sum_{i \in \text{batch}} \log p(y_i \mid x_i, \theta) + \frac{\lVert\theta\rVert^2}{2 \sigma^2 N} $$

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = MAPInference(epochs=2).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.kind, len(result.history)
        ('point', 2)
    """

    name: Literal["map"] = "map"

    @property
    @override
    def is_point(self) -> bool:
        return True

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, members=1, prior_scale=self.prior_scale, prior_fan_in=self.prior_fan_in)


@final
class _Objective(AbstractStackedObjective):
    @override
    def posterior(self) -> Posterior:
        parameters, buffers = self.copies(0)
        return PointPosterior(parameters, buffers=buffers, prior=self.prior)
