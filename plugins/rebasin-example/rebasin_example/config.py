"""Options of the strategies, by which they are named in run files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core import ArchitectureConfig
from rebasin_example.architecture import ConvNetArchitecture

if TYPE_CHECKING:
    from rebasin_core import Architecture


@final
class ConvNetConfig(ArchitectureConfig):
    """Options of `ConvNetArchitecture`."""

    name: Literal["conv_net"] = "conv_net"
    channels: int = Field(16, ge=1, description="Channels of the convolution, at least 1.")
    hidden: int = Field(64, ge=1, description="Units of the dense layer, at least 1.")

    @override
    def build(self) -> Architecture:
        return ConvNetArchitecture(channels=self.channels, hidden=self.hidden)
