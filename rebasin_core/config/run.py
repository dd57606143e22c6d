"""Options of a run file: posteriors to train or load, matchers, and barriers to estimate."""

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
"""A likelihood; None, written as ``auto`` in run files, selects the one that fits the dataset."""


class PosteriorSource(Options):
    """Source of a posterior: a seed to train it from, or a file to load. Exactly one of ``seed`` and ``path``."""

    seed: NonNegativeInt | None = None
    """Seed of the initialization, the batch order and the noise of training."""

    path: Path | None = None
    """File of a posterior saved by this library, or checkpoint of any registered format: a file or a folder."""

    inference: Inference | None = None
    """Inference method of a trained posterior; `inference` of the run if not given."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.seed is None) == (self.path is None):
            message = "expected either `seed`, to train the posterior, or `path`, to load it"
            raise ValueError(message)
        if self.path is not None and self.inference is not None:
            message = "`inference` does not apply to a loaded posterior; remove it"
            raise ValueError(message)
        return self


class RunConfig(Options):
    """Configuration of a run: two posteriors, matchers, and the barrier estimator.

    Raises:
        ConfigError: If an option is unknown, missing or out of range.
    """

    data: DataSource
    """The dataset."""

    architecture: Architecture
    """The network architecture."""

    spec: SpecFactory | None = None
    """Specification factory of the permutation symmetries; the specification of the architecture if not given."""

    allow_untested: bool = False
    """Whether to accept symmetries although some permuted tensors do not measurably influence the model's outputs."""

    inference: Inference = Field(default_factory=MeanFieldVI)
    """The inference method; `mean_field_vi` with default options if not given."""

    start: Inference | None = None
    """Inference method of the networks at which `inference` starts, each trained from the seed of its posterior: the
    means of their posteriors. The results are stored, and shared with cells whose `inference` is this method. Without
    it, `inference` starts at random initializations."""

    start_seed: NonNegativeInt | None = None
    """Seed of one network at which all trained posteriors start: that of `start` if it is given, otherwise a random
    initialization. The seeds of the posteriors then select batch order and noise only, and their barrier is the
    instability of the training (Frankle et al. 2020). If not given, each posterior starts at a network of its seed."""

    reference: PosteriorSource = PosteriorSource(seed=1)
    """The posterior to align to; by default trained from seed 1."""

    candidate: PosteriorSource = PosteriorSource(seed=2)
    """The posterior to permute; by default trained from seed 2."""

    matchers: Annotated[tuple[Matcher, ...], MinLen(1)] = (WeightMatcher(), WassersteinMatcher())
    """Matchers to compare, each applied separately; their names must differ."""

    align_samples: Matcher | None = None
    """Matcher that aligns the samples of each posterior with each other before posteriors are matched
    (`rebasin_core.align_samples`); none if not given. Its posteriors must be samples or mixtures."""

    barrier: BarrierEstimator = MarginalizedBarrier()
    """The barrier estimator."""

    splits: Annotated[tuple[Split, ...], MinLen(1)] = ("test",)
    """Splits on which barriers are estimated: `test`, `train` or both."""

    batch_size: PositiveInt = 128
    """Batch size for training."""

    evaluation_batch_size: PositiveInt = 1000
    """Batch size for matching and evaluation."""

    num_train: PositiveInt | None = None
    """Use only the first `num_train` training examples; all if not given."""

    num_test: PositiveInt | None = None
    """Use only the first `num_test` test examples; all if not given."""

    num_match: PositiveInt | None = None
    """Number of training examples for matchers that run the network, from the first; all if not given."""

    num_calibration: PositiveInt | None = 5000
    """Number of training examples on which `reset`, `repair` and `curved` are fitted, from the first; all if null."""

    num_score_samples: PositiveInt = 32
    """Number of posterior samples for predictive scores."""

    compiled: bool = False
    """Whether networks are trained with ``torch.compile``."""

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the training examples held out for early stopping, in [0, 1)."""

    likelihood: AutoOrLikelihood = Field(None, json_schema_extra={"default": _AUTO})
    """The likelihood; `auto` selects `categorical` for classification, and `gaussian` with the standard deviation
    `noise_scale` for regression."""

    noise_scale: PositiveFloat = NOISE_SCALE
    """Standard deviation of the Gaussian likelihood, in units of the targets, if `likelihood` is `auto`."""

    seed: NonNegativeInt = 0
    """Seed of the matchers and of the posterior samples."""

    device: str = "auto"
    """`auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, ..."""

    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of networks and posteriors."""

    @model_validator(mode="after")
    def _distinct_matchers(self) -> Self:
        names = [matcher.name for matcher in self.matchers]
        if len(set(names)) < len(names):
            message = f"expected matchers with different names, got {names}"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _one_noise_scale(self) -> Self:
        # `heteroscedastic` has no scale, and is accepted together with `noise_scale`: older run files have both.
        chosen = self.likelihood
        if self.noise_scale != NOISE_SCALE and chosen is not None and chosen.name != "heteroscedastic":
            message = (
                f"`noise_scale` applies only to the likelihood `auto`, got {self.noise_scale!r} with {chosen!r}; use "
                "the option of the likelihood: {name: gaussian, scale: ...}"
            )
            raise ValueError(message)
        return self
