"""Barriers: the loss on the path between two posteriors, and how far it rises above its ends."""

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.path import Path, PathName
from rebasin_core.barriers.pointwise import PointwiseBarrier

__all__ = [
    "BarrierEstimator",
    "BarrierProblem",
    "LossCurve",
    "MarginalizedBarrier",
    "Path",
    "PathName",
    "PointwiseBarrier",
]
