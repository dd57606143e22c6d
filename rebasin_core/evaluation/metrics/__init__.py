"""Metrics: components that replace the loss, and functions of predictive distributions."""

from rebasin_core.evaluation.metrics.brier import BrierMetric
from rebasin_core.evaluation.metrics.error import ErrorMetric
from rebasin_core.evaluation.metrics.functions import (
    agreement,
    auroc,
    brier_score,
    expected_calibration_error,
    gaussian_mixture_crps,
    predictive_entropy,
    reliability,
    total_variation,
)
from rebasin_core.evaluation.metrics.gibbs import GibbsMetric
from rebasin_core.evaluation.metrics.nll import NLLMetric
from rebasin_core.evaluation.metrics.squared_error import SquaredErrorMetric

__all__ = [
    "BrierMetric",
    "ErrorMetric",
    "GibbsMetric",
    "NLLMetric",
    "SquaredErrorMetric",
    "agreement",
    "auroc",
    "brier_score",
    "expected_calibration_error",
    "gaussian_mixture_crps",
    "predictive_entropy",
    "reliability",
    "total_variation",
]
