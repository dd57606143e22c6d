"""A small convolutional network, and its symmetries as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import nn
from torch.nn.utils import skip_init
from typing_extensions import override

from rebasin_core import Architecture, PermutationSpec, TableSpec

if TYPE_CHECKING:
    from torch import Tensor


@final
class ConvNetSpec(TableSpec):
    """The symmetries of a `ConvNetArchitecture` network.

    Pooling acts on every channel alike, so channels stay free. Flattening ``[channels, height, width]`` makes the dense
    layer's inputs a product: ``channels * -``, the second factor being the positions, which stay.
    """

    table = {  # ruff: ignore[mutable-class-default] - a table is never changed
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

    Args:
        channels: Channels of the convolution, at least 1.
        hidden: Units of the dense layer, at least 1.

    Example:
        >>> architecture = ConvNetArchitecture(channels=4, hidden=8)
        >>> model = architecture.build((1, 8, 8), 10)
        >>> {name: group.size for name, group in architecture.spec(model).groups.items()}
        {'channels': 4, 'hidden': 8}
    """

    def __init__(self, *, channels: int = 16, hidden: int = 64) -> None:
        self._channels, self._hidden = channels, hidden

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        return _ConvNet(input_shape, (self._channels, self._hidden, output_size), generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return ConvNetSpec(model)


@final
class _ConvNet(nn.Module):
    """The network itself."""

    def __init__(self, input_shape: tuple[int, ...], widths: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        depth, height, width = input_shape
        channels, hidden, outputs = widths
        # skip_init leaves the global generator alone; the parameters come from the given one.
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
