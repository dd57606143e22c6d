"""Barriers: the loss on the path between two posteriors, and how far it rises above its ends."""

from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.path import PathName, point_on_path
from rebasin_core.barriers.pointwise import PointwiseBarrier

__all__ = [
    "BarrierEstimator",
    "BarrierProblem",
    "LossCurve",
    "MarginalizedBarrier",
    "PathName",
    "PointwiseBarrier",
    "point_on_path",
]
