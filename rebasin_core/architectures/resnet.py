"""Residual networks for ImageNet: ResNet-18, -34, -50, -101 and -152."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import NormalizedLayer, initialized, kinds_of_layers
from rebasin_core.specs.blocks import batch_norm, conv, dense
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.unit_maps import KindsByGroup

ResNetDepth: TypeAlias = Literal[18, 34, 50, 101, 152]
_BLOCKS: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_FIRST_BOTTLENECK: Final = 50


@final
class ResNetArchitecture(Architecture):
    """Residual network with four stages. Tensor names are those of torchvision, whose checkpoints can be loaded.

    Raises:
        ConfigError: If an option is invalid.

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), "Deep residual learning for image recognition", CVPR, arXiv 1512.03385.

    Examples:
        >>> architecture = ResNetArchitecture(depth=18, width=8)
        >>> model = architecture.build((3, 64, 64), 10)
        >>> len(architecture.spec(model).groups)
        12
    """

    name: Literal["resnet"] = "resnet"

    depth: ResNetDepth = 18
    """Number of weight layers. Networks with 18 and 34 layers have blocks of two 3x3 convolutions, deeper ones
    bottleneck blocks."""

    width: PositiveInt = 64
    """Number of channels in the first stage, 64 in the paper; the other stages have 2, 4 and 8 times this number."""

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        return initialized(lambda: _ResNet(input_shape[0], self.depth, self.width, output_size), generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return ResNetSpec(model)


@final
class ResNetSpec(TableSpec):
    """Permutation specification: one group for each residual stream, and one or two inside each block.

    Args:
        tensors: The model, or its tensors by name.
    """

    @property
    @override
    def table(self) -> Mapping[str, str]:
        table: dict[str, str] = {}
        for layer in self._layers:
            table |= conv(layer.name, layer.inputs, layer.outputs, bias=False) | batch_norm(layer.norm, layer.outputs)
        return table | dense("fc", self._layers[-1].outputs, "-")

    @property
    @override
    def kinds(self) -> KindsByGroup:
        return kinds_of_layers("batch", self._layers, "fc", self._layers[-1].outputs)

    @cached_property
    def _layers(self) -> list[NormalizedLayer]:
        """The convolutions, each with its batch normalization."""
        stream = "conv1"
        found = [NormalizedLayer("conv1", "bn1", "-", stream)]
        for block in dict.fromkeys(name.rsplit(".", 2)[0] for name in self.shapes if ".conv1." in name):
            before = stream
            if f"{block}.downsample.0.weight" in self.shapes:
                stream = f"{block}.downsample"
                found.append(NormalizedLayer(f"{stream}.0", f"{stream}.1", before, stream))
            units = [before, f"{block}.conv1", stream]
            if f"{block}.conv3.weight" in self.shapes:
                units.insert(2, f"{block}.conv2")
            for number, (inputs, outputs) in enumerate(pairwise(units), 1):
                found.append(NormalizedLayer(f"{block}.conv{number}", f"{block}.bn{number}", inputs, outputs))
        return found


@final
class _Block(nn.Module):
    """A basic block with two convolutions, or a bottleneck block with three."""

    def __init__(self, before: int, inner: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        after = 4 * inner if bottleneck else inner
        self.conv1 = nn.Conv2d(before, inner, 1, bias=False) if bottleneck else _conv3(before, inner, stride)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv3(inner, inner, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, after, 1, bias=False) if bottleneck else None
        self.bn3 = nn.BatchNorm2d(after) if bottleneck else None
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.downsample = shortcut if stride > 1 or before != after else None

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(inputs)).relu()))
        if self.conv3 is not None and self.bn3 is not None:
            hidden = self.bn3(self.conv3(hidden.relu()))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return (hidden + shortcut).relu()


@final
class _ResNet(nn.Module):
    def __init__(self, inputs: int, depth: int, width: int, outputs: int) -> None:
        super().__init__()
        bottleneck = depth >= _FIRST_BOTTLENECK
        before = width
        self.conv1 = nn.Conv2d(inputs, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, count in enumerate(_BLOCKS[depth]):
            blocks: list[nn.Module] = []
            for block in range(count):
                inner = width << stage
                stride = 2 if stage and not block else 1
                blocks.append(_Block(before, inner, stride, bottleneck=bottleneck))
                before = 4 * inner if bottleneck else inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, outputs)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.max_pool2d(self.bn1(self.conv1(inputs)).relu(), 3, stride=2, padding=1)
        for stage in range(1, 5):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        output: Tensor = self.fc(hidden.mean((2, 3)))
        return output


def _conv3(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
