"""Validated options: one pydantic model a strategy, and the run file."""

from rebasin_core.config.base import FAMILIES, StrategyConfig, family_of
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

__all__ = [
    "FAMILIES",
    "DeepEnsembleConfig",
    "InferenceConfig",
    "MAPConfig",
    "MCDropoutConfig",
    "MeanFieldVIConfig",
    "OptimizerConfig",
    "PosteriorSource",
    "RunConfig",
    "SGHMCConfig",
    "SGLDConfig",
    "SWAGConfig",
    "ScheduleConfig",
    "SnapshotEnsembleConfig",
    "StrategyConfig",
    "family_of",
]
