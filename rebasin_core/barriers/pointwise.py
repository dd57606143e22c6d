"""The point-wise barrier: the loss of one network, on the straight line between two."""

from __future__ import annotations

from typing import final

from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.path import places
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.predictive import predict
from rebasin_core.posteriors.point import PointPosterior


@final
class PointwiseBarrier(BarrierEstimator):
    r"""Computes the barrier of Git Re-Basin, between the means of two posteriors.

    $$ \max_t \; L(\theta_t) - \left[(1-t) L(\theta_0) + t L(\theta_1)\right],
       \qquad \theta_t = (1-t)\,\mathbb E_{q_0}\theta + t\,\mathbb E_{q_1}\theta $$

    Nothing is random, so the Monte Carlo standard errors are zero; those from the data are given.

    Args:
        num_points: Number of places, ends included: odd, at least 3.

    Raises:
        InvalidInputError: If ``num_points`` is even or less than 3.

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

    def __init__(self, *, num_points: int = 25) -> None:
        self._places = places(num_points)

    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        start, end = (PointPosterior(q.mean, buffers=q.buffers) for q in (problem.reference, problem.candidate))
        estimates: list[LossEstimate] = []
        for t in tqdm(self._places, desc="path", unit="place", leave=False, disable=not problem.progress):
            predictions = predict(
                start.geodesic(end, t), problem.model, problem.batches, problem.likelihood, num_samples=1, seed=0
            )
            estimates.append(LossEstimate.of(predictions, where=f"t = {t:g} of the path"))
        return LossCurve.of(self._places, estimates, random=False)
