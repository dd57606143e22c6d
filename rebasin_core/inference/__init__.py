"""Inference: how a posterior is got from data."""

from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.gradient import AbstractGradientInference
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec

__all__ = [
    "AbstractGradientInference",
    "FitProblem",
    "FitResult",
    "Inference",
    "MAPInference",
    "MeanFieldVI",
    "OptimizerSpec",
    "ScheduleSpec",
]
