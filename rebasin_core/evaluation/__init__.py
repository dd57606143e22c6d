"""Running networks under distributions of parameters, and scoring what they predict."""

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    Likelihood,
    LikelihoodName,
    as_likelihood,
)
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.predictive import Batches, Predictions, held_batches, predict

__all__ = [
    "Batches",
    "CategoricalLikelihood",
    "FunctionalModel",
    "GaussianLikelihood",
    "Likelihood",
    "LikelihoodName",
    "LossEstimate",
    "Predictions",
    "as_likelihood",
    "held_batches",
    "predict",
]
