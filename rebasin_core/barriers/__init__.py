"""Barriers: the loss on the path between two posteriors, and its excess over the interpolated endpoint losses."""

from rebasin_core.barriers.adjustment import PathAdjustment, PathCalibration
from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.calibrated import CalibratedBarrier
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.curved import AbstractCurveBarrier, CurvedBarrier
from rebasin_core.barriers.elastic_band import ElasticBandBarrier
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.path_barrier import AbstractNetworkBarrier, AbstractPathBarrier
from rebasin_core.barriers.paths import (
    AutoPath,
    CoupledPath,
    CurvePath,
    MixturePath,
    MomentsPath,
    Path,
    PathProblem,
    SamplesPath,
    WassersteinPath,
)
from rebasin_core.barriers.plots import plot_curves
from rebasin_core.barriers.pointwise import PointwiseBarrier
from rebasin_core.barriers.repaired import AbstractAdjustedBarrier, RepairBarrier, ResetBarrier
from rebasin_core.barriers.wrapper import AbstractWrapperBarrier

__all__ = [
    "AbstractAdjustedBarrier",
    "AbstractCurveBarrier",
    "AbstractNetworkBarrier",
    "AbstractPathBarrier",
    "AbstractWrapperBarrier",
    "AutoPath",
    "BarrierEstimator",
    "BarrierProblem",
    "CalibratedBarrier",
    "CoupledPath",
    "CurvePath",
    "CurvedBarrier",
    "ElasticBandBarrier",
    "LossCurve",
    "MarginalizedBarrier",
    "MixturePath",
    "MomentsPath",
    "Path",
    "PathAdjustment",
    "PathCalibration",
    "PathProblem",
    "PointwiseBarrier",
    "RepairBarrier",
    "ResetBarrier",
    "SamplesPath",
    "WassersteinPath",
    "plot_curves",
]
