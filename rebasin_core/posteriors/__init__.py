"""Distributions over the parameters of a network, in weight space: one file a representation."""

from rebasin_core.posteriors.adapter import ModuleAdapter, PosteriorAdapter
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.base import AbstractGeodesic, AbstractLogDensity, Posterior
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.divergence import kl_divergence, wasserstein_distance
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior

__all__ = [
    "AbstractAttachedPosterior",
    "AbstractGeodesic",
    "AbstractLogDensity",
    "DiagonalGaussianPosterior",
    "ModuleAdapter",
    "PointPosterior",
    "Posterior",
    "PosteriorAdapter",
    "SamplesPosterior",
    "kl_divergence",
    "wasserstein_distance",
]
