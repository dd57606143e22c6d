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
from rebasin_core.config.barrier import (
    BarrierConfig,
    CurvedBarrierConfig,
    EvaluationConfig,
    MarginalizedBarrierConfig,
    PointwiseBarrierConfig,
    RepairBarrierConfig,
    ResetBarrierConfig,
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
from rebasin_core.config.run import PosteriorSource, RunConfig
from rebasin_core.config.spec import FileSpecConfig, SpecConfig, TableSpecConfig, TracedSpecConfig

__all__ = [
    "FAMILIES",
    "ArchitectureConfig",
    "BarrierConfig",
    "CIFAR10Config",
    "CifarResNetConfig",
    "CurvedBarrierConfig",
    "DatasetConfig",
    "DigitsConfig",
    "EvaluationConfig",
    "FashionMNISTConfig",
    "FileSpecConfig",
    "GPTConfig",
    "MLPConfig",
    "MNISTConfig",
    "MarginalizedBarrierConfig",
    "PointwiseBarrierConfig",
    "PosteriorSource",
    "RepairBarrierConfig",
    "ResNetConfig",
    "ResetBarrierConfig",
    "RunConfig",
    "SpecConfig",
    "StrategyConfig",
    "TableSpecConfig",
    "TracedSpecConfig",
    "UCIConfig",
    "VGGConfig",
    "ViTConfig",
    "family_of",
]
