"""The point-wise barrier: the loss of one network, on the straight line between two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.barriers.measured import AbstractPathBarrier
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.networks import EvaluationOptions
    from rebasin_core.posteriors.base import Posterior


@final
class PointwiseBarrier(AbstractPathBarrier):
    r"""Computes the barrier of Git Re-Basin, between the means of two posteriors.

    $$ \max_t \; L(\theta_t) - \left[(1-t) L(\theta_0) + t L(\theta_1)\right],
       \qquad \theta_t = (1-t)\,\mathbb E_{q_0}\theta + t\,\mathbb E_{q_1}\theta $$

    Nothing is random, so the Monte Carlo standard errors are zero; those from the data are given.

    Args:
        num_points: Number of places, ends included: odd, at least 3.
        tolerance: If given, places are added around the highest one until the height is within so many nats of the
            maximum, as a parabola sees it.
        metric: ``nll``; or another measure in its place: ``error``, ``brier``, ``squared_error``.
        evaluation: How networks are run.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, definition 2.2.

    Example:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a, b = (PointPosterior({"weight": torch.tensor([[v], [0.0]])}) for v in (-1.0, 1.0))
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> PointwiseBarrier(num_points=3).estimate(a, b, model=model, data=data).height
        0.0
    """

    def __init__(
        self,
        *,
        num_points: int = 25,
        tolerance: float | None = None,
        metric: Metric | str = "nll",
        evaluation: EvaluationOptions | None = None,
    ) -> None:
        super().__init__(
            num_points=num_points, num_samples=1, tolerance=tolerance, metric=metric, evaluation=evaluation
        )

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        start, end = (PointPosterior(q.mean, buffers=q.buffers) for q in (problem.reference, problem.candidate))
        return partial(start.geodesic, end)
