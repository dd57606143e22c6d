"""A small convolutional network, with its permutation specification as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import PositiveInt
from torch import nn
from torch.nn.utils import skip_init
from typing_extensions import override

from rebasin_core import Architecture, PermutationSpec, TableSpec

if TYPE_CHECKING:
    from torch import Tensor


@final
class ConvNetSpec(TableSpec):
    """Permutation specification of networks of `ConvNetArchitecture`.

    Channels can be permuted, because pooling acts on each channel separately. Flattening ``[channels, height, width]``
    makes the input axis of the dense layer a product, ``channels*-``. Its second factor, the positions, is fixed.
    """

    table = {  # ruff: ignore[mutable-class-default] - tables are not modified
        "convolution.weight": "channels, -, -, -",
        "convolution.bias": "channels",
        "dense.weight": "hidden, channels*-",
        "dense.bias": "hidden",
        "readout.weight": "-, hidden",
        "readout.bias": "-",
    }


@final
class ConvNetArchitecture(Architecture):
    """One convolution, pooling, one dense layer and a readout.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> architecture = ConvNetArchitecture(channels=4, hidden=8)
        >>> model = architecture.build((1, 8, 8), 10)
        >>> {name: group.size for name, group in architecture.spec(model).groups.items()}
        {'channels': 4, 'hidden': 8}
    """

    name: Literal["conv_net"] = "conv_net"

    channels: PositiveInt = 16
    """Number of channels of the convolution."""

    hidden: PositiveInt = 64
    """Number of units of the dense layer."""

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        return _ConvNet(input_shape, (self.channels, self.hidden, output_size), generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return ConvNetSpec(model)


@final
class _ConvNet(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], widths: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        depth, height, width = input_shape
        channels, hidden, outputs = widths
        # nn.Linear would use the global generator; skip_init does not.
        self.convolution = skip_init(nn.Conv2d, depth, channels, kernel_size=3, padding=1)
        self.dense = skip_init(nn.Linear, channels * (height // 2) * (width // 2), hidden)
        self.readout = skip_init(nn.Linear, hidden, outputs)
        for layer in (self.convolution, self.dense, self.readout):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(self.convolution(inputs).relu(), kernel_size=2)
        hidden = self.dense(features.flatten(1)).relu()
        output: Tensor = self.readout(hidden)
        return output
