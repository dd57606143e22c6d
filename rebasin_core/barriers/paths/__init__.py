"""Paths between posteriors."""

from rebasin_core.barriers.paths.auto import AutoPath
from rebasin_core.barriers.paths.base import Path, PathProblem
from rebasin_core.barriers.paths.coupled import CoupledPath
from rebasin_core.barriers.paths.curve import CurvePath
from rebasin_core.barriers.paths.mixture import MixturePath
from rebasin_core.barriers.paths.moments import MomentsPath
from rebasin_core.barriers.paths.samples import SamplesPath
from rebasin_core.barriers.paths.wasserstein import WassersteinPath

__all__ = [
    "AutoPath",
    "CoupledPath",
    "CurvePath",
    "MixturePath",
    "MomentsPath",
    "Path",
    "PathProblem",
    "SamplesPath",
    "WassersteinPath",
]
