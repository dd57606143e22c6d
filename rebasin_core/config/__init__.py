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
from rebasin_core.config.base import FAMILIES, StrategyConfig, family_of
from rebasin_core.config.dataset import (
    CIFAR10Config,
    DatasetConfig,
    DigitsConfig,
    FashionMNISTConfig,
    MNISTConfig,
    UCIConfig,
)
from rebasin_core.config.inference import (
    DeepEnsembleConfig,
    InferenceConfig,
    MAPConfig,
    MCDropoutConfig,
    MeanFieldVIConfig,
    SGHMCConfig,
    SGLDConfig,
    SnapshotEnsembleConfig,
    SWAGConfig,
)
from rebasin_core.config.optimizer import OptimizerConfig, ScheduleConfig
from rebasin_core.config.run import PosteriorSource, RunConfig
from rebasin_core.config.spec import FileSpecConfig, SpecConfig, TableSpecConfig, TracedSpecConfig

__all__ = [
    "FAMILIES",
    "ArchitectureConfig",
    "CIFAR10Config",
    "CifarResNetConfig",
    "DatasetConfig",
    "DeepEnsembleConfig",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FileSpecConfig",
    "GPTConfig",
    "InferenceConfig",
    "MAPConfig",
    "MCDropoutConfig",
    "MLPConfig",
    "MNISTConfig",
    "MeanFieldVIConfig",
    "OptimizerConfig",
    "PosteriorSource",
    "ResNetConfig",
    "RunConfig",
    "SGHMCConfig",
    "SGLDConfig",
    "SWAGConfig",
    "ScheduleConfig",
    "SnapshotEnsembleConfig",
    "SpecConfig",
    "StrategyConfig",
    "TableSpecConfig",
    "TracedSpecConfig",
    "UCIConfig",
    "VGGConfig",
    "ViTConfig",
    "family_of",
]
