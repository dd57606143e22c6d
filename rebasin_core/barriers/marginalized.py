"""The marginalised barrier: the loss of the predictive distribution, along a path of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, final, get_args

from typing_extensions import override

from rebasin_core.barriers.measured import AbstractPathBarrier
from rebasin_core.barriers.path import Path, PathName
from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.networks import EvaluationOptions
    from rebasin_core.posteriors.base import Posterior


@final
class MarginalizedBarrier(AbstractPathBarrier):
    r"""Estimates the marginalised barrier of Rossi et al. by Monte Carlo.

    At every place $t$ the loss is that of the *predictive*, $-\frac1N \sum_i \log \mathbb E_{\theta \sim q_t}
    p(y_i \mid x_i, \theta)$, estimated by the log-mean-exp over S samples. All places share the same base noise (common
    random numbers), so that noise, and the bias of the log-mean-exp of about (relative variance) / 2S, largely cancel
    in the barrier.

    Args:
        num_points: Number of places, ends included: odd, at least 3.
        num_samples: Number of samples S at each place, at least 2 (a standard error needs two).
        path: One of the names that `Path` explains: ``auto``, ``wasserstein``, ``coupled``, ``moments``, ``samples``,
            ``mixture``.
        tolerance: If given, places are added around the highest one until the height is within so many nats of the
            maximum, as a parabola sees it.
        metric: ``nll``; or another measure in its place: ``gibbs``, ``error``, ``brier``, ``squared_error``.
        evaluation: How networks are run; if not given, the outputs of layers are drawn instead of weights where that is
            exact, at a far smaller error.

    Raises:
        InvalidInputError: If an option is out of range; on estimating, if the pair has no such path.

    References:
        S. Rossi, A. Singh, T. Hannagan (2023), "On permutation symmetries in Bayesian neural network posteriors: a
        variational perspective", NeurIPS, arXiv 2310.10171.

    Example:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> q = DiagonalGaussianPosterior({"weight": torch.zeros(2, 1)}, {"weight": torch.ones(2, 1)})
        >>> data = [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))]
        >>> MarginalizedBarrier(num_points=3, num_samples=8).estimate(q, q, model=model, data=data).height
        0.0
    """

    def __init__(
        self,
        *,
        num_points: int = 11,
        num_samples: int = 32,
        path: PathName = "auto",
        tolerance: float | None = None,
        metric: Metric | str = "nll",
        evaluation: EvaluationOptions | None = None,
    ) -> None:
        super().__init__(
            num_points=num_points, num_samples=num_samples, tolerance=tolerance, metric=metric, evaluation=evaluation
        )
        if num_samples < 2:  # ruff: ignore[magic-value-comparison] - a standard error needs two
            message = f"expected `num_samples` of at least 2, got {num_samples!r}; for points use `pointwise`"
            raise InvalidInputError(message)
        if path not in get_args(PathName):
            message = f"expected a path among {', '.join(get_args(PathName))}, got {path!r}"
            raise InvalidInputError(message)
        self._name: PathName = path

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        ends = problem.reference, problem.candidate
        return Path(*ends, self._name, num_samples=self._num_samples, seed=problem.seed)
