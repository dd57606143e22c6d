"""Likelihoods for classes, binary labels, counts and numbers."""

from rebasin_core.evaluation.likelihoods.bernoulli import BernoulliLikelihood
from rebasin_core.evaluation.likelihoods.categorical import CategoricalLikelihood
from rebasin_core.evaluation.likelihoods.poisson import PoissonLikelihood
from rebasin_core.evaluation.likelihoods.regression import (
    NOISE_SCALE,
    AbstractRegressionLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
)

__all__ = [
    "NOISE_SCALE",
    "AbstractRegressionLikelihood",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "HeteroscedasticGaussianLikelihood",
    "PoissonLikelihood",
]
