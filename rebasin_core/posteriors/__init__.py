"""Distributions over the parameters of a network, in weight space: one file per representation."""

from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.averaging import TensorWeights
from rebasin_core.posteriors.barycenters import barycenter, moment_barycenter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.capabilities import (
    AbstractCoupledPath,
    AbstractEmpirical,
    AbstractIndependentGaussian,
    AbstractLogDensity,
    AbstractMixture,
    PosteriorPath,
)
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.divergence import kl_divergence, squared_moment_distance, wasserstein_distance
from rebasin_core.posteriors.foreign.adapters import (
    AveragedModelAdapter,
    IVONAdapter,
    ModuleAdapter,
    PyroGuideAdapter,
)
from rebasin_core.posteriors.foreign.state_dict import from_state_dict, load_samples
from rebasin_core.posteriors.full_gaussian import FullGaussianPosterior
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.kronecker_gaussian import KroneckerGaussianPosterior
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.multiplicative_noise import MultiplicativeNoisePosterior, UnitNoise
from rebasin_core.posteriors.pairs import register_barycenter, register_geodesic, register_kl, register_wasserstein
from rebasin_core.posteriors.paths import (
    coupled_path,
    displacement_path,
    geodesic,
    mean_path,
    mixture_path,
    moment_path,
)
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.posteriors.samples import SamplesPosterior

__all__ = [
    "AbstractAttachedPosterior",
    "AbstractCoupledPath",
    "AbstractEmpirical",
    "AbstractGaussianPosterior",
    "AbstractIndependentGaussian",
    "AbstractLogDensity",
    "AbstractMixture",
    "AbstractWriteBack",
    "AuxiliaryTensors",
    "AveragedModelAdapter",
    "DiagonalGaussianPosterior",
    "FullGaussianPosterior",
    "GaussianPrior",
    "IVONAdapter",
    "KroneckerGaussianPosterior",
    "LowRankGaussianPosterior",
    "MixturePosterior",
    "ModuleAdapter",
    "MultiplicativeNoisePosterior",
    "PointPosterior",
    "Posterior",
    "PosteriorAdapter",
    "PosteriorPath",
    "PyroGuideAdapter",
    "SamplesPosterior",
    "TensorWeights",
    "UnitNoise",
    "barycenter",
    "coupled_path",
    "displacement_path",
    "from_state_dict",
    "geodesic",
    "kl_divergence",
    "load_samples",
    "mean_path",
    "mixture_path",
    "moment_barycenter",
    "moment_path",
    "register_barycenter",
    "register_geodesic",
    "register_kl",
    "register_wasserstein",
    "squared_moment_distance",
    "wasserstein_distance",
]
