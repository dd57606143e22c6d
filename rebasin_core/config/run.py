"""The run file: what is trained or loaded, matched and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from rebasin_core.config.architecture import ArchitectureConfig
from rebasin_core.config.barrier import BarrierConfig, MarginalizedBarrierConfig
from rebasin_core.config.dataset import DatasetConfig
from rebasin_core.config.spec import SpecConfig
from rebasin_core.inference.base import Inference
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.matchers.base import Matcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher

Split = Literal["test", "train"]


class PosteriorSource(BaseModel):
    """Where a posterior comes from: trained from a seed, or loaded from a file. Exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = Field(
        None, ge=0, description="Seed of its initialisation, batches and noise, when it is trained."
    )
    path: Path | None = Field(None, description="A posterior saved by this library, or a safetensors checkpoint.")
    inference: Inference | None = Field(None, description="How it is trained, if not as the whole run says.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.seed is None) == (self.path is None):
            message = "give either `seed`, to train it, or `path`, to load it"
            raise ValueError(message)
        if self.path is not None and self.inference is not None:
            message = "a loaded posterior is not trained: leave out `inference`"
            raise ValueError(message)
        return self


def _trained(seed: int) -> PosteriorSource:
    return PosteriorSource(seed=seed)


class RunConfig(BaseModel):
    """A whole run: two posteriors, aligned by every matcher, and the barriers before and after."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: SerializeAsAny[DatasetConfig] = Field(description="The data set.")
    architecture: SerializeAsAny[ArchitectureConfig] = Field(description="The network.")
    spec: SerializeAsAny[SpecConfig] | None = Field(
        None, description="Its symmetries, if not those that the architecture gives."
    )
    inference: Inference = Field(
        default_factory=MeanFieldVI, description="How posteriors are trained; `mean_field_vi` if not given."
    )
    reference: PosteriorSource = Field(
        default_factory=lambda: _trained(1), description="The posterior that stays; by default trained from seed 1."
    )
    candidate: PosteriorSource = Field(
        default_factory=lambda: _trained(2),
        description="The posterior that is moved; by default trained from seed 2.",
    )
    matchers: tuple[Matcher, ...] = Field(
        default_factory=lambda: (WeightMatcher(), WassersteinMatcher()),
        min_length=1,
        description="The matchers, each tried on its own, names must differ; `weight` and `wasserstein` if not given.",
    )
    barrier: SerializeAsAny[BarrierConfig] = Field(
        default_factory=MarginalizedBarrierConfig,
        description="How barriers are estimated; by default `marginalized`.",
    )
    splits: tuple[Split, ...] = Field(("test",), min_length=1, description="On which examples barriers are estimated.")
    batch_size: int = Field(128, ge=1, description="Training examples a batch.")
    evaluation_batch_size: int = Field(1000, ge=1, description="Examples a batch when nothing is trained.")
    num_train: Annotated[int, Field(ge=1)] | None = Field(None, description="Train on the first examples only.")
    num_test: Annotated[int, Field(ge=1)] | None = Field(None, description="Test on the first examples only.")
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, description="Part of the training examples that is held out to stop training early."
    )
    likelihood: Literal["auto", "heteroscedastic"] = Field(
        "auto", description="`auto` fits the task; `heteroscedastic`: regression whose noise the network predicts."
    )
    noise_scale: float = Field(0.3, gt=0, description="Regression: standard deviation of the noise, in target units.")
    seed: int = Field(0, ge=0, description="Seed of matching and of the barrier's samples.")
    device: str = Field("auto", description="`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, ...")
    dtype: Literal["float32", "float64"] = Field("float32", description="Floating-point precision.")

    @model_validator(mode="after")
    def _distinct_matchers(self) -> Self:
        names = [matcher.name for matcher in self.matchers]
        if len(set(names)) < len(names):
            message = f"each matcher can be named once, got {names}"
            raise ValueError(message)
        return self
