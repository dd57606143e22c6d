"""The marginalized barrier: the loss of the predictive distribution along a path of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.barriers.path_barrier import AbstractPathBarrier
from rebasin_core.barriers.pointwise import PointwiseBarrier
from rebasin_core.evaluation.networks import EvaluationOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.posteriors.base import Posterior


@final
class MarginalizedBarrier(AbstractPathBarrier):
    r"""Monte Carlo estimate of the marginalized barrier of Rossi et al.

    At every $t$ the loss is that of the *predictive*, $-\frac1N \sum_i \log \mathbb E_{\theta \sim q_t}
    p(y_i \mid x_i, \theta)$, estimated by the log-mean-exp over S posterior samples. All points use the same base
    noise (common random numbers). Therefore Monte Carlo error, and the bias of the log-mean-exp of about
    (relative variance) / 2S, largely cancel in the barrier.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On estimation, if `path` is not defined for the pair.

    References:
        S. Rossi, A. Singh, T. Hannagan (2023), "On permutation symmetries in Bayesian neural network posteriors: a
        variational perspective", NeurIPS, arXiv 2310.10171.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> q = DiagonalGaussianPosterior({"weight": torch.zeros(2, 1)}, {"weight": torch.ones(2, 1)})
        >>> data = [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))]
        >>> from rebasin_core.evaluation import Task
        >>> MarginalizedBarrier(num_points=3, num_samples=8).estimate(q, q, task=Task(model, data)).height
        0.0
    """

    name: Literal["marginalized"] = "marginalized"

    # Two samples are needed for a standard error.
    num_samples: Annotated[int, Field(ge=2)] = 32
    """Number of posterior samples S at each point, at least 2."""

    @property
    @override
    def uses_calibration(self) -> bool:
        return False

    @override
    def of_means(self) -> PointwiseBarrier:
        return PointwiseBarrier(
            num_points=self.num_points,
            tolerance=self.tolerance,
            error=self.error,
            relative_error=self.relative_error,
            metric=self.metric,
            evaluation=_even(self.evaluation),
        )

    @property
    @override
    def _draws(self) -> int:
        return self.num_samples

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        return self.path.between(problem.reference, problem.candidate, num_samples=self.num_samples, seed=problem.seed)


def _even(options: EvaluationOptions) -> EvaluationOptions:
    """Return the options that apply to single networks, without those of sampling."""
    return EvaluationOptions(precision=options.precision, compiled=options.compiled)
