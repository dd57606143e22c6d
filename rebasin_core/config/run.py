"""The run file: what is trained or loaded, matched and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    WrapSerializer,
    model_validator,
)

from rebasin_core.architectures.base import Architecture
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.config.inference import InferenceConfig, MeanFieldVIConfig
from rebasin_core.data.base import DataSource
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.matchers.base import Matcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.specs.base import SpecFactory
from rebasin_core.strategy import FAMILY_KEY

Split = Literal["test", "train"]
_AUTO = "auto"
_NOISE_SCALE = 0.3


def _none_for_auto(value: object) -> object:
    return None if value == _AUTO else value


def _auto_for_none(value: object, handler: SerializerFunctionWrapHandler) -> Any:  # ruff: ignore[any-type] - JSON
    return _AUTO if value is None else handler(value)


AutoOrLikelihood: TypeAlias = Annotated[
    Likelihood | None,
    BeforeValidator(_none_for_auto),
    WrapSerializer(_auto_for_none),
    WithJsonSchema({"anyOf": [{"const": _AUTO}, {FAMILY_KEY: Likelihood.family}]}),
]
"""A likelihood; None, written as ``auto`` in run files, for the one that fits the data set."""


class PosteriorSource(BaseModel):
    """Where a posterior comes from: trained from a seed, or loaded from a file. Exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = Field(
        None, ge=0, description="Seed of its initialisation, batches and noise, when it is trained."
    )
    path: Path | None = Field(None, description="A posterior saved by this library, or a safetensors checkpoint.")
    inference: SerializeAsAny[InferenceConfig] | None = Field(
        None, description="How it is trained, if not as the whole run says."
    )

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

    data: DataSource = Field(description="The data set.")
    architecture: Architecture = Field(description="The network.")
    spec: SpecFactory | None = Field(None, description="Its symmetries, if not those that the architecture gives.")
    inference: SerializeAsAny[InferenceConfig] = Field(
        default_factory=MeanFieldVIConfig, description="How posteriors are trained; `mean_field_vi` if not given."
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
    barrier: BarrierEstimator = Field(
        default_factory=MarginalizedBarrier,
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
    likelihood: AutoOrLikelihood = Field(
        None,
        description="The likelihood; by default `auto`: `categorical` for classes, `gaussian` with the scale "
        "`noise_scale` for numbers.",
        json_schema_extra={"default": _AUTO},
    )
    noise_scale: float = Field(
        _NOISE_SCALE,
        gt=0,
        description="Standard deviation of the noise of numbers, in units of the targets, if the likelihood is `auto`.",
    )
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

    @model_validator(mode="after")
    def _one_noise_scale(self) -> Self:
        # Run files of earlier versions may have both keys for `heteroscedastic`, which has no use for the scale.
        chosen = self.likelihood
        if self.noise_scale != _NOISE_SCALE and chosen is not None and chosen.name != "heteroscedastic":
            message = (
                f"`noise_scale` is for the likelihood `auto`, got {self.noise_scale!r} with {chosen!r}; give the scale "
                "as an option of the likelihood: {name: gaussian, scale: ...}"
            )
            raise ValueError(message)
        return self
