"""Distributions over the parameters of a network, in weight space: one file a representation."""

from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.barycenter import barycenter
from rebasin_core.posteriors.base import AbstractCoupling, AbstractGeodesic, AbstractLogDensity, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.divergence import kl_divergence, wasserstein_distance
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
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.posteriors.samples import SamplesPosterior

__all__ = [
    "AbstractAttachedPosterior",
    "AbstractCoupling",
    "AbstractGaussianPosterior",
    "AbstractGeodesic",
    "AbstractLogDensity",
    "AbstractWriteBack",
    "AveragedModelAdapter",
    "Companions",
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
    "PyroGuideAdapter",
    "SamplesPosterior",
    "UnitNoise",
    "barycenter",
    "from_state_dict",
    "kl_divergence",
    "load_samples",
    "wasserstein_distance",
]
