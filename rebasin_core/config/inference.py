"""Options of the inference methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.errors import UnknownNameError
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec

if TYPE_CHECKING:
    from rebasin_core.inference.base import Inference


class InferenceConfig(StrategyConfig):
    """Base of the options of every inference method."""

    family: ClassVar[str] = "inference"

    @override
    @abstractmethod
    def build(self) -> Inference: ...


class _TorchConfig(BaseModel, ABC):
    """A class of torch by its name; all further keys are its own options, and are checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @abstractmethod
    def build(self) -> object:
        """Return the name and the options, checked."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.build()
        except UnknownNameError as error:
            raise ValueError(str(error)) from error
        return self


class OptimizerConfig(_TorchConfig):
    """An optimiser of ``torch.optim``; all further keys are its own options (``lr``, ``weight_decay``, ...)."""

    name: str = Field("Adam", description="The class name, such as `Adam`.")

    @override
    def build(self) -> OptimizerSpec:
        return OptimizerSpec(self.name, {"lr": 1e-3, **(self.model_extra or {})})


class ScheduleConfig(_TorchConfig):
    """A schedule of ``torch.optim.lr_scheduler``; all further keys are its own options (``T_max``, ...)."""

    name: str = Field(description="The class name, such as `CosineAnnealingLR`.")
    interval: Literal["epoch", "step"] = Field("epoch", description="Whether it advances every epoch or every step.")

    @override
    def build(self) -> ScheduleSpec:
        return ScheduleSpec(self.name, self.model_extra or {}, self.interval)


@final
class MeanFieldVIConfig(InferenceConfig):
    """Options of `MeanFieldVI`."""

    name: Literal["mean_field_vi"] = "mean_field_vi"
    epochs: int = Field(20, ge=1, description="Passes over the data, at least 1.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Any optimiser of torch.")
    schedule: ScheduleConfig | None = Field(None, description="Any learning-rate schedule of torch.")
    prior_scale: float = Field(0.1, gt=0, description="Standard deviation of the Gaussian prior, positive.")
    kl_weight: float = Field(1.0, gt=0, description="Weight of the KL divergence (temperature), positive; 1 is Bayes.")
    initial_stddev: float = Field(0.01, gt=0, description="Standard deviation at the start, positive.")
    local_reparameterization: bool = Field(default=True, description="Whether noise is drawn at the layers' outputs.")

    @override
    def build(self) -> Inference:
        return MeanFieldVI(
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=None if self.schedule is None else self.schedule.build(),
            prior_scale=self.prior_scale,
            kl_weight=self.kl_weight,
            initial_stddev=self.initial_stddev,
            local_reparameterization=self.local_reparameterization,
        )


@final
class MAPConfig(InferenceConfig):
    """Options of `MAPInference`."""

    name: Literal["map"] = "map"
    epochs: int = Field(20, ge=1, description="Passes over the data, at least 1.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Any optimiser of torch.")
    schedule: ScheduleConfig | None = Field(None, description="Any learning-rate schedule of torch.")
    prior_scale: float = Field(
        1.0, gt=0, description="Standard deviation of the Gaussian prior; `.inf` for a flat one."
    )

    @override
    def build(self) -> Inference:
        return MAPInference(
            epochs=self.epochs,
            optimizer=self.optimizer.build(),
            schedule=None if self.schedule is None else self.schedule.build(),
            prior_scale=self.prior_scale,
        )
