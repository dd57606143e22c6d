"""Options of the architectures."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.architectures.mlp import ActivationName, MLPArchitecture
from rebasin_core.config.base import StrategyConfig

if TYPE_CHECKING:
    from rebasin_core.architectures.base import Architecture


class ArchitectureConfig(StrategyConfig):
    """Base of the options of every architecture."""

    family: ClassVar[str] = "architecture"

    @override
    @abstractmethod
    def build(self) -> Architecture: ...


@final
class MLPConfig(ArchitectureConfig):
    """Options of `MLPArchitecture`."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (512, 512, 512), description="Widths of the hidden layers, each at least 1; empty for a linear model."
    )
    activation: ActivationName = Field("relu", description="The activation between the layers.")
    bias: bool = Field(default=True, description="Whether the layers have biases.")

    @override
    def build(self) -> Architecture:
        return MLPArchitecture(hidden=self.hidden, activation=self.activation, bias=self.bias)
