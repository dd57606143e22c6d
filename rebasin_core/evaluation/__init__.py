"""Evaluation of posteriors: predictions, losses with standard errors, metrics, and REPAIR."""

from rebasin_core.evaluation.allocation import Allocation, Stratum
from rebasin_core.evaluation.batches import Batch, Batches, checked_batches
from rebasin_core.evaluation.effect import AlignmentEffect, Keep, MidpointEvaluator
from rebasin_core.evaluation.elements import Elements
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood, TargetKind
from rebasin_core.evaluation.likelihoods import (
    AbstractRegressionLikelihood,
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    PoissonLikelihood,
)
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.losses import LikelihoodLike, as_likelihood
from rebasin_core.evaluation.metric import AbstractPredictionMetric, AbstractSampleMetric, Metric, MetricValues
from rebasin_core.evaluation.metrics import (
    BrierMetric,
    ErrorMetric,
    GibbsMetric,
    NLLMetric,
    SquaredErrorMetric,
    agreement,
    auroc,
    brier_score,
    expected_calibration_error,
    gaussian_mixture_crps,
    predictive_entropy,
    reliability,
    total_variation,
)
from rebasin_core.evaluation.networks import AllocationName, EvaluationOptions, MethodName, PrecisionName, Sampling
from rebasin_core.evaluation.normalization import refreshed_buffers
from rebasin_core.evaluation.predictive import HeldTask, Predictions, held_batches, predict
from rebasin_core.evaluation.reading import ModelReading, Role, WeightUse
from rebasin_core.evaluation.repair import ActivationMoments, ActivationRepair, UnitMaps
from rebasin_core.evaluation.scores import PredictiveScores
from rebasin_core.evaluation.stratified import StratifiedPredictor
from rebasin_core.evaluation.task import Task
from rebasin_core.evaluation.user_metrics import MetricLike, MetricObject, as_metric
from rebasin_core.tensors.inputs import AnyInputs, ModelInputs
from rebasin_core.tensors.outputs import OutputChoice, with_output

__all__ = [
    "AbstractPredictionMetric",
    "AbstractRegressionLikelihood",
    "AbstractSampleMetric",
    "ActivationMoments",
    "ActivationRepair",
    "AlignmentEffect",
    "Allocation",
    "AllocationName",
    "AnyInputs",
    "Batch",
    "Batches",
    "BernoulliLikelihood",
    "BrierMetric",
    "CategoricalLikelihood",
    "Elements",
    "ErrorMetric",
    "EvaluationOptions",
    "Evaluator",
    "FunctionalModel",
    "GaussianLikelihood",
    "GibbsMetric",
    "HeldTask",
    "HeteroscedasticGaussianLikelihood",
    "Keep",
    "Likelihood",
    "LikelihoodLike",
    "LossEstimate",
    "MethodName",
    "Metric",
    "MetricLike",
    "MetricObject",
    "MetricValues",
    "MidpointEvaluator",
    "ModelInputs",
    "ModelReading",
    "NLLMetric",
    "OutputChoice",
    "PoissonLikelihood",
    "PrecisionName",
    "Predictions",
    "PredictiveScores",
    "Role",
    "Sampling",
    "SquaredErrorMetric",
    "StratifiedPredictor",
    "Stratum",
    "TargetKind",
    "Task",
    "UnitMaps",
    "WeightUse",
    "agreement",
    "as_likelihood",
    "as_metric",
    "auroc",
    "brier_score",
    "checked_batches",
    "expected_calibration_error",
    "gaussian_mixture_crps",
    "held_batches",
    "predict",
    "predictive_entropy",
    "refreshed_buffers",
    "reliability",
    "total_variation",
    "with_output",
]
