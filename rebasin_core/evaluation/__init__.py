"""Running networks under distributions of parameters, and scoring what they predict."""

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    Likelihood,
    LikelihoodName,
    as_likelihood,
)
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metrics import brier_score, expected_calibration_error
from rebasin_core.evaluation.normalization import refreshed_buffers
from rebasin_core.evaluation.predictive import Batches, Predictions, held_batches, predict

__all__ = [
    "Batches",
    "CategoricalLikelihood",
    "FunctionalModel",
    "GaussianLikelihood",
    "HeteroscedasticGaussianLikelihood",
    "Likelihood",
    "LikelihoodName",
    "LossEstimate",
    "Predictions",
    "as_likelihood",
    "brier_score",
    "expected_calibration_error",
    "held_batches",
    "predict",
    "refreshed_buffers",
]
