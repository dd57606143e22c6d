"""Barriers: the loss on the path between two posteriors, and how far it rises above its ends."""

from rebasin_core.barriers.adjustment import PathAdjustment
from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.curved import CurvedBarrier
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.measured import AbstractPathBarrier
from rebasin_core.barriers.path import Path, PathName
from rebasin_core.barriers.pointwise import PointwiseBarrier
from rebasin_core.barriers.repaired import RepairBarrier, ResetBarrier

__all__ = [
    "AbstractPathBarrier",
    "BarrierEstimator",
    "BarrierProblem",
    "CurvedBarrier",
    "LossCurve",
    "MarginalizedBarrier",
    "Path",
    "PathAdjustment",
    "PathName",
    "PointwiseBarrier",
    "RepairBarrier",
    "ResetBarrier",
]
