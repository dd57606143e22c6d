"""Options of the architectures."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from rebasin_core.architectures.cifar_resnet import CifarResNetArchitecture, ShortcutName, blocks_a_stage
from rebasin_core.architectures.layers import NormName
from rebasin_core.architectures.mlp import ActivationName, MLPArchitecture
from rebasin_core.architectures.resnet import ResNetArchitecture, ResNetDepth
from rebasin_core.architectures.transformer import GPTArchitecture, ViTArchitecture, width_of_a_head
from rebasin_core.architectures.vgg import VGGArchitecture, VGGDepth
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


@final
class VGGConfig(ArchitectureConfig):
    """Options of `VGGArchitecture`."""

    name: Literal["vgg"] = "vgg"
    depth: VGGDepth = Field(16, description="11, 13, 16 or 19.")
    width: float = Field(1.0, gt=0, description="Multiplies the numbers of channels 64, 128, 256, 512, 512.")
    batch_norm: bool = Field(default=True, description="Whether a batch normalisation follows each convolution.")

    @override
    def build(self) -> Architecture:
        return VGGArchitecture(depth=self.depth, width=self.width, batch_norm=self.batch_norm)


@final
class CifarResNetConfig(ArchitectureConfig):
    """Options of `CifarResNetArchitecture`."""

    name: Literal["cifar_resnet"] = "cifar_resnet"
    depth: int = Field(20, description="6 n + 2 for n blocks a stage: 8, 14, 20, 32, ...")
    width: int = Field(1, ge=1, description="Multiplies the channels 16, 32, 64.")
    norm: NormName = Field("batch", description="Batch, layer or filter response normalisation.")
    shortcut: ShortcutName = Field("conv", description="How channels double: a 1x1 convolution, or zeros around them.")

    @field_validator("depth")
    @classmethod
    def _is_possible(cls, depth: int) -> int:
        blocks_a_stage(depth)
        return depth

    @override
    def build(self) -> Architecture:
        return CifarResNetArchitecture(depth=self.depth, width=self.width, norm=self.norm, shortcut=self.shortcut)


@final
class ResNetConfig(ArchitectureConfig):
    """Options of `ResNetArchitecture`."""

    name: Literal["resnet"] = "resnet"
    depth: ResNetDepth = Field(18, description="18, 34, 50, 101 or 152.")
    width: int = Field(64, ge=1, description="Channels of the first stage.")

    @override
    def build(self) -> Architecture:
        return ResNetArchitecture(depth=self.depth, width=self.width)


class TransformerConfig(ArchitectureConfig):
    """The options that both transformers have."""

    width: int = Field(64, ge=1, description="Features of the residual stream, divisible by the number of heads.")
    depth: int = Field(4, ge=1, description="Number of blocks.")
    heads: int = Field(4, ge=1, description="Number of heads.")
    hidden: int = Field(128, ge=1, description="Units of the perceptron in each block.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        width_of_a_head(self.width, self.heads)
        return self


@final
class ViTConfig(TransformerConfig):
    """Options of `ViTArchitecture`."""

    name: Literal["vit"] = "vit"
    patch: int = Field(4, ge=1, description="Side of the square patches; must divide the sides of the pictures.")

    @override
    def build(self) -> Architecture:
        return ViTArchitecture(
            patch=self.patch, width=self.width, depth=self.depth, heads=self.heads, hidden=self.hidden
        )


@final
class GPTConfig(TransformerConfig):
    """Options of `GPTArchitecture`."""

    name: Literal["gpt"] = "gpt"

    @override
    def build(self) -> Architecture:
        return GPTArchitecture(width=self.width, depth=self.depth, heads=self.heads, hidden=self.hidden)
