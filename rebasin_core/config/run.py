"""The run file: what is trained or loaded, matched and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from annotated_types import MinLen
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    WrapSerializer,
    model_validator,
)

from rebasin_core.architectures.base import Architecture
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.data.base import DataSource
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import NOISE_SCALE
from rebasin_core.inference.base import Inference
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.matchers.base import Matcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.specs.base import SpecFactory
from rebasin_core.strategy import FAMILY_KEY, Options

Split = Literal["test", "train"]
_AUTO = "auto"


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


class PosteriorSource(Options):
    """Where a posterior comes from: trained from a seed, or loaded from a file. Exactly one of the two."""

    seed: NonNegativeInt | None = None
    """Seed of the initialization, the batches and the noise, if the posterior is trained."""

    path: Path | None = None
    """A posterior saved by this library, or a safetensors checkpoint."""

    inference: Inference | None = None
    """The inference method; that of the run if not given."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.seed is None) == (self.path is None):
            message = "give either `seed`, to train it, or `path`, to load it"
            raise ValueError(message)
        if self.path is not None and self.inference is not None:
            message = "a loaded posterior is not trained: leave out `inference`"
            raise ValueError(message)
        return self


class RunConfig(Options):
    """A whole run: two posteriors, aligned by every matcher, and the barriers before and after.

    Raises:
        ConfigError: If an option is unknown, missing or out of range.
    """

    data: DataSource
    """The data set."""

    architecture: Architecture
    """The network."""

    spec: SpecFactory | None = None
    """Source of the permutation symmetries; the architecture itself if not given."""

    allow_untested: bool = False
    """Whether symmetries are accepted that keep the function though some tensors could not be shown to matter to it."""

    inference: Inference = Field(default_factory=MeanFieldVI)
    """The inference method; `mean_field_vi` if not given."""

    reference: PosteriorSource = PosteriorSource(seed=1)
    """The posterior to align to; by default trained from seed 1."""

    candidate: PosteriorSource = PosteriorSource(seed=2)
    """The posterior to permute; by default trained from seed 2."""

    matchers: Annotated[tuple[Matcher, ...], MinLen(1)] = (WeightMatcher(), WassersteinMatcher())
    """The matchers, each tried on its own; their names must differ. `weight` and `wasserstein` if not given."""

    barrier: BarrierEstimator = MarginalizedBarrier()
    """The barrier estimator; `marginalized` if not given."""

    splits: Annotated[tuple[Split, ...], MinLen(1)] = ("test",)
    """The examples on which barriers are estimated: `test`, `train` or both."""

    batch_size: PositiveInt = 128
    """Number of training examples in a batch."""

    evaluation_batch_size: PositiveInt = 1000
    """Number of examples in a batch when nothing is trained."""

    num_train: PositiveInt | None = None
    """Number of training examples that are used, from the first on; all if not given."""

    num_test: PositiveInt | None = None
    """Number of test examples that are used, from the first on; all if not given."""

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training examples that is held out for early stopping."""

    likelihood: AutoOrLikelihood = Field(None, json_schema_extra={"default": _AUTO})
    """The likelihood; by default `auto`: `categorical` for classes, and for numbers `gaussian` with the scale
    `noise_scale`."""

    noise_scale: PositiveFloat = NOISE_SCALE
    """Standard deviation of the noise of numbers, in units of the targets, if the likelihood is `auto`."""

    seed: NonNegativeInt = 0
    """Seed of matching and of the barrier's posterior samples."""

    device: str = "auto"
    """`auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, ..."""

    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point precision."""

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
        if self.noise_scale != NOISE_SCALE and chosen is not None and chosen.name != "heteroscedastic":
            message = (
                f"`noise_scale` is for the likelihood `auto`, got {self.noise_scale!r} with {chosen!r}; give the scale "
                "as an option of the likelihood: {name: gaussian, scale: ...}"
            )
            raise ValueError(message)
        return self
