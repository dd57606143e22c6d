"""Validated options: one pydantic model a strategy, and the run file."""

from rebasin_core.config.architecture import (
    ArchitectureConfig,
    CifarResNetConfig,
    GPTConfig,
    MLPConfig,
    ResNetConfig,
    VGGConfig,
    ViTConfig,
)
from rebasin_core.config.barrier import BarrierConfig, MarginalizedBarrierConfig, PointwiseBarrierConfig
from rebasin_core.config.base import FAMILIES, StrategyConfig, family_of
from rebasin_core.config.dataset import (
    CIFAR10Config,
    DatasetConfig,
    DigitsConfig,
    FashionMNISTConfig,
    MNISTConfig,
    UCIConfig,
)
from rebasin_core.config.inference import InferenceConfig, MAPConfig, MeanFieldVIConfig, OptimizerConfig, ScheduleConfig
from rebasin_core.config.matcher import KLMatcherConfig, MatcherConfig, WassersteinMatcherConfig, WeightMatcherConfig
from rebasin_core.config.run import PosteriorSource, RunConfig
from rebasin_core.config.spec import FileSpecConfig, SpecConfig, TableSpecConfig, TracedSpecConfig

__all__ = [
    "FAMILIES",
    "ArchitectureConfig",
    "BarrierConfig",
    "CIFAR10Config",
    "CifarResNetConfig",
    "DatasetConfig",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FileSpecConfig",
    "GPTConfig",
    "InferenceConfig",
    "KLMatcherConfig",
    "MAPConfig",
    "MLPConfig",
    "MNISTConfig",
    "MarginalizedBarrierConfig",
    "MatcherConfig",
    "MeanFieldVIConfig",
    "OptimizerConfig",
    "PointwiseBarrierConfig",
    "PosteriorSource",
    "ResNetConfig",
    "RunConfig",
    "ScheduleConfig",
    "SpecConfig",
    "StrategyConfig",
    "TableSpecConfig",
    "TracedSpecConfig",
    "UCIConfig",
    "VGGConfig",
    "ViTConfig",
    "WassersteinMatcherConfig",
    "WeightMatcherConfig",
    "family_of",
]
