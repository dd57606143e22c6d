"""Align neural networks, and Bayesian posteriors over networks, modulo their symmetries, and measure the barrier left.

The names here are the public face; the interfaces that plugins build on are here too. See the documentation for a first
run, the concepts, and how to extend.
"""

from importlib.metadata import version as _version

from rebasin_core.architectures import Architecture, MLPArchitecture
from rebasin_core.barriers import BarrierEstimator, LossCurve, MarginalizedBarrier, PointwiseBarrier
from rebasin_core.config import (
    ArchitectureConfig,
    BarrierConfig,
    DatasetConfig,
    InferenceConfig,
    MatcherConfig,
    RunConfig,
    SpecConfig,
    StrategyConfig,
)
from rebasin_core.data import DataSource, DataSplits, Examples, Task, TensorBatches
from rebasin_core.engine import RunResult, as_posterior, barrier, build, load_posterior, load_run, match, run
from rebasin_core.errors import RebasinError, RebasinWarning
from rebasin_core.evaluation import CategoricalLikelihood, GaussianLikelihood, Likelihood
from rebasin_core.inference import FitResult, Inference, MAPInference, MeanFieldVI, OptimizerSpec, ScheduleSpec
from rebasin_core.matchers import (
    AbstractChannelMatcher,
    Channels,
    KLMatcher,
    Matcher,
    MatchOutcome,
    MatchProblem,
    MatchResult,
    WassersteinMatcher,
    WeightMatcher,
)
from rebasin_core.plugin import Registry, default_registry, hookimpl
from rebasin_core.posteriors import (
    AbstractAttachedPosterior,
    AbstractGeodesic,
    AbstractLogDensity,
    DiagonalGaussianPosterior,
    PointPosterior,
    Posterior,
    PosteriorAdapter,
    SamplesPosterior,
    kl_divergence,
    wasserstein_distance,
)
from rebasin_core.specs import PermutationSpec, SpecCheck, SpecFactory, TableSpec, check_spec, table_spec
from rebasin_core.symmetry import Atom, Axis, Concat, Group, Layout, Permutation, Product, cells

__version__ = _version("rebasin-core")

__all__ = [
    "AbstractAttachedPosterior",
    "AbstractChannelMatcher",
    "AbstractGeodesic",
    "AbstractLogDensity",
    "Architecture",
    "ArchitectureConfig",
    "Atom",
    "Axis",
    "BarrierConfig",
    "BarrierEstimator",
    "CategoricalLikelihood",
    "Channels",
    "Concat",
    "DataSource",
    "DataSplits",
    "DatasetConfig",
    "DiagonalGaussianPosterior",
    "Examples",
    "FitResult",
    "GaussianLikelihood",
    "Group",
    "Inference",
    "InferenceConfig",
    "KLMatcher",
    "Layout",
    "Likelihood",
    "LossCurve",
    "MAPInference",
    "MLPArchitecture",
    "MarginalizedBarrier",
    "MatchOutcome",
    "MatchProblem",
    "MatchResult",
    "Matcher",
    "MatcherConfig",
    "MeanFieldVI",
    "OptimizerSpec",
    "Permutation",
    "PermutationSpec",
    "PointPosterior",
    "PointwiseBarrier",
    "Posterior",
    "PosteriorAdapter",
    "Product",
    "RebasinError",
    "RebasinWarning",
    "Registry",
    "RunConfig",
    "RunResult",
    "SamplesPosterior",
    "ScheduleSpec",
    "SpecCheck",
    "SpecConfig",
    "SpecFactory",
    "StrategyConfig",
    "TableSpec",
    "Task",
    "TensorBatches",
    "WassersteinMatcher",
    "WeightMatcher",
    "as_posterior",
    "barrier",
    "build",
    "cells",
    "check_spec",
    "default_registry",
    "hookimpl",
    "kl_divergence",
    "load_posterior",
    "load_run",
    "match",
    "run",
    "table_spec",
    "wasserstein_distance",
]
