"""Options of optimisers and learning-rate schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from rebasin_core.errors import UnknownNameError
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec


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
