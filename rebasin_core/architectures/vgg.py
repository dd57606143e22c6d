"""VGG networks."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, final

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import NormalizedLayer, initialized, kinds_of_layers
from rebasin_core.specs.blocks import batch_norm, conv, dense
from rebasin_core.specs.table import TableSpec
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.unit_maps import KindsByGroup

VGGDepth: TypeAlias = Literal[11, 13, 16, 19]
_STAGES: Final = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS: Final = (64, 128, 256, 512, 512)


@final
class VGGArchitecture(Architecture):
    """VGG network: five stages of 3x3 convolutions, each followed by max pooling, and one dense layer.

    As usual for CIFAR, there is one dense layer instead of three. Pooling rounds sizes up, which allows small images.

    Raises:
        ConfigError: If an option is invalid.

    References:
        K. Simonyan, A. Zisserman (2015), "Very deep convolutional networks for large-scale image recognition", ICLR,
        arXiv 1409.1556.

    Examples:
        >>> architecture = VGGArchitecture(depth=11, width=0.125)
        >>> model = architecture.build((3, 32, 32), 10)
        >>> architecture.spec(model).axes["head.weight"][1].size
        64
    """

    name: Literal["vgg"] = "vgg"

    depth: VGGDepth = 16
    """Number of weight layers of the original network, which has three dense layers."""

    width: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor of the numbers of channels of the stages (64, 128, 256, 512 and 512), positive."""

    batch_norm: bool = True
    """Whether each convolution is followed by batch normalization."""

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        widths = [max(1, round(self.width * channels)) for channels in _CHANNELS]
        stages = [[count] * layers for count, layers in zip(widths, _STAGES[self.depth], strict=True)]
        channels, height, width = input_shape
        for _ in stages:
            height = -(-height // 2)
            width = -(-width // 2)
        last = widths[-1] * height * width
        return initialized(lambda: _VGG(channels, stages, last, output_size, norm=self.batch_norm), generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return VGGSpec(model)


@final
class VGGSpec(TableSpec):
    """Permutation specification: one group for the channels of each convolution.

    Args:
        tensors: The model, or its tensors by name.
    """

    @property
    @override
    def table(self) -> Mapping[str, str]:
        count = sum(name.startswith("convs.") and name.endswith(".weight") for name in self.shapes)
        units = ["-", *(f"convs.{layer}" for layer in range(count))]
        table: dict[str, str] = {}
        for layer in range(count):
            table |= conv(f"convs.{layer}", units[layer], units[layer + 1])
            if f"norms.{layer}.weight" in self.shapes:
                table |= batch_norm(f"norms.{layer}", units[layer + 1])
        return table | dense("head", f"{units[-1]}*-", "-")

    @property
    @override
    def kinds(self) -> KindsByGroup:
        count = sum(name.startswith("convs.") and name.endswith(".weight") for name in self.shapes)
        units = ["-", *(f"convs.{layer}" for layer in range(count))]
        if "norms.0.weight" not in self.shapes:
            return dict.fromkeys(units[1:], Kind.POSITIVE)
        layers = [
            NormalizedLayer(after, f"norms.{layer}", before, after)
            for layer, (before, after) in enumerate(pairwise(units))
        ]
        return kinds_of_layers("batch", layers, "head", units[-1])


@final
class _VGG(nn.Module):
    def __init__(self, channels: int, stages: Sequence[Sequence[int]], last: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        widths = [width for stage in stages for width in stage]
        pairs = zip([channels, *widths], widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for width in widths)
        self.head = nn.Linear(last, outputs)
        self._last_of_stage = {sum(map(len, stages[: stage + 1])) - 1 for stage in range(len(stages))}

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for layer, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            hidden = norm(convolution(hidden)).relu()
            if layer in self._last_of_stage:
                hidden = nn.functional.max_pool2d(hidden, 2, ceil_mode=True)
        output: Tensor = self.head(hidden.flatten(1))
        return output
