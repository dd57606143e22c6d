"""Options of the inference methods."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.config.optimizer import OptimizerConfig, ScheduleConfig
from rebasin_core.inference.deep_ensemble import DeepEnsemble
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.mc_dropout import MCDropout
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.inference.sghmc import SGHMC
from rebasin_core.inference.sgld import SGLD
from rebasin_core.inference.snapshot_ensemble import SnapshotEnsemble
from rebasin_core.inference.swag import SWAG
from rebasin_core.inference.weight_noise import EstimatorName

if TYPE_CHECKING:
    from rebasin_core.inference.base import Inference
    from rebasin_core.inference.optimizer import ScheduleSpec

Positive: TypeAlias = Annotated[float, Field(gt=0)]
Scale: TypeAlias = Positive | dict[str, Positive]
_SCALE = "Standard deviation of the Gaussian prior; `.inf` for a flat one; or by pattern of parameter names."
_PATIENCE = "Stop after so many epochs without a better validation loss; needs `validation_fraction`."
_TOGETHER = "Whether small networks are run at once."


class InferenceConfig(StrategyConfig):
    """Base of the options of every inference method."""

    family: ClassVar[str] = "inference"

    @override
    @abstractmethod
    def build(self) -> Inference: ...


class _GradientConfig(InferenceConfig):
    """Options of the methods that train."""

    epochs: int = Field(20, ge=1, description="Passes over the data, at least 1.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Any optimiser of torch.")
    schedule: ScheduleConfig | None = Field(None, description="Any learning-rate schedule of torch.")

    def built_schedule(self) -> ScheduleSpec | None:
        """Return the schedule, if there is one."""
        return None if self.schedule is None else self.schedule.build()


@final
class MeanFieldVIConfig(_GradientConfig):
    """Options of `MeanFieldVI`."""

    name: Literal["mean_field_vi"] = "mean_field_vi"
    prior_scale: Scale = Field(0.1, description="Standard deviation of the Gaussian prior, or by pattern of names.")
    kl_weight: float = Field(1.0, gt=0, description="Weight of the KL divergence (temperature), positive; 1 is Bayes.")
    kl_warmup: int = Field(0, ge=0, description="Epochs in which that weight rises linearly.")
    initial_stddev: float = Field(0.01, gt=0, description="Standard deviation at the start, positive.")
    estimator: EstimatorName = Field("local", description="Noise at the layers' outputs, flipout, or on the weights.")
    sticking_the_landing: bool = Field(default=False, description="Estimate the divergence at the draw; needs weights.")
    stochastic: tuple[str, ...] | None = Field(None, description="Patterns of the random parameters; all by default.")
    moped: float | None = Field(None, gt=0, description="Start from a trained model: stddev as a fraction of weights.")
    symmetry_elements: int = Field(0, ge=0, description="Random permutations for the permutation-invariant bound.")
    patience: int | None = Field(None, ge=1, description=_PATIENCE)

    @override
    def build(self) -> Inference:
        return MeanFieldVI(
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=self.built_schedule(),
            prior_scale=self.prior_scale,
            kl_weight=self.kl_weight,
            kl_warmup=self.kl_warmup,
            initial_stddev=self.initial_stddev,
            estimator=self.estimator,
            sticking_the_landing=self.sticking_the_landing,
            stochastic=self.stochastic,
            moped=self.moped,
            symmetry_elements=self.symmetry_elements,
            patience=self.patience,
        )


@final
class MAPConfig(_GradientConfig):
    """Options of `MAPInference`."""

    name: Literal["map"] = "map"
    prior_scale: Scale = Field(1.0, description=_SCALE)
    patience: int | None = Field(None, ge=1, description=_PATIENCE)

    @override
    def build(self) -> Inference:
        return MAPInference(
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=self.built_schedule(),
            prior_scale=self.prior_scale,
            patience=self.patience,
        )


@final
class DeepEnsembleConfig(_GradientConfig):
    """Options of `DeepEnsemble`."""

    name: Literal["deep_ensemble"] = "deep_ensemble"
    members: int = Field(5, ge=2, description="Number of networks.")
    prior_scale: Scale = Field(1.0, description=_SCALE)
    patience: int | None = Field(None, ge=1, description=_PATIENCE)
    together: bool = Field(default=True, description=_TOGETHER)

    @override
    def build(self) -> Inference:
        return DeepEnsemble(
            members=self.members,
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=self.built_schedule(),
            prior_scale=self.prior_scale,
            patience=self.patience,
            together=self.together,
        )


@final
class SnapshotEnsembleConfig(InferenceConfig):
    """Options of `SnapshotEnsemble`."""

    name: Literal["snapshot_ensemble"] = "snapshot_ensemble"
    members: int = Field(5, ge=2, description="Number of cycles, and of networks kept.")
    epochs: int = Field(50, ge=1, description="Passes over the data, a multiple of `members`.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Any optimiser of torch.")
    prior_scale: Scale = Field(1.0, description=_SCALE)

    @override
    def build(self) -> Inference:
        return SnapshotEnsemble(
            members=self.members, epochs=self.epochs, optimizer=self.optimizer.build(), prior_scale=self.prior_scale
        )


@final
class SWAGConfig(_GradientConfig):
    """Options of `SWAG`."""

    name: Literal["swag"] = "swag"
    epochs: int = Field(40, ge=1, description="Passes over the data, collecting ones included.")
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig.model_validate({"name": "SGD", "lr": 0.05, "momentum": 0.9}),
        description="An optimiser of torch.",
    )
    start: int | None = Field(None, ge=0, description="Epoch after which collecting begins; half of all by default.")
    rank: int = Field(20, ge=2, description="Number of deviations kept.")
    scale: float = Field(0.5, gt=0, description="Factor of the covariance; the paper's is one half.")
    learning_rate: float | None = Field(None, gt=0, description="Constant rate while collecting.")
    members: int = Field(1, ge=1, description="1 for SWAG, more for multi-SWAG.")
    prior_scale: Scale = Field(1.0, description=_SCALE)
    least_variance: float = Field(1e-30, ge=0, description="Variances below it are raised to it.")
    together: bool = Field(default=True, description=_TOGETHER)

    @override
    def build(self) -> Inference:
        return SWAG(
            epochs=self.epochs,
            start=self.start,
            rank=self.rank,
            scale=self.scale,
            learning_rate=self.learning_rate,
            members=self.members,
            optimizer=self.optimizer.build(),
            schedule=self.built_schedule(),
            prior_scale=self.prior_scale,
            least_variance=self.least_variance,
            together=self.together,
        )


class _ChainConfig(InferenceConfig):
    """Options of the samplers."""

    epochs: int = Field(100, ge=1, description="Passes over the data.")
    learning_rate: float = Field(0.01, gt=0, description="The largest step, in units of the loss per example.")
    burn_in: int = Field(20, ge=0, description="Passes before the first sample; without cycles.")
    thinning: int = Field(1, ge=1, description="Passes from one sample to the next.")
    cycles: int = Field(0, ge=0, description="0 for a constant step, else the number of cosine cycles.")
    exploration: float = Field(0.5, ge=0, lt=1, description="The noiseless part of each cycle.")
    temperature: float = Field(1.0, ge=0, description="1 for the posterior, less for a cold one.")
    prior_scale: Scale = Field(1.0, description=_SCALE)
    chains: int = Field(1, ge=1, description="Number of chains, side by side.")
    together: bool = Field(default=True, description=_TOGETHER)


@final
class SGLDConfig(_ChainConfig):
    """Options of `SGLD`."""

    name: Literal["sgld"] = "sgld"

    @override
    def build(self) -> Inference:
        return SGLD(**self.model_dump(exclude={"name"}))


@final
class SGHMCConfig(_ChainConfig):
    """Options of `SGHMC`."""

    name: Literal["sghmc"] = "sghmc"
    momentum_decay: float = Field(0.1, gt=0, le=1, description="The friction of a step; 1 is SGLD.")

    @override
    def build(self) -> Inference:
        return SGHMC(**self.model_dump(exclude={"name"}))


@final
class MCDropoutConfig(_GradientConfig):
    """Options of `MCDropout`."""

    name: Literal["mc_dropout"] = "mc_dropout"
    rate: float = Field(0.1, gt=0, lt=1, description="The probability that a unit is dropped.")
    layers: tuple[str, ...] | None = Field(None, description="Patterns of layers; all but the first by default.")
    prior_scale: Scale = Field(1.0, description=_SCALE)
    patience: int | None = Field(None, ge=1, description=_PATIENCE)

    @override
    def build(self) -> Inference:
        return MCDropout(
            rate=self.rate,
            layers=self.layers,
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=self.built_schedule(),
            prior_scale=self.prior_scale,
            patience=self.patience,
        )
