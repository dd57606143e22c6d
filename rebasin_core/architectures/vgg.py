"""VGG networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import initialised
from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.blocks import batch_norm, conv, dense
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from rebasin_core.specs.base import PermutationSpec

VGGDepth: TypeAlias = Literal[11, 13, 16, 19]
_STAGES: Final = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS: Final = (64, 128, 256, 512, 512)


@final
class VGGArchitecture(Architecture):
    """Stages of 3x3 convolutions, halved by max pooling, and one dense layer on the flattened map.

    The form used on CIFAR (Simonyan and Zisserman, ICLR 2015, with one dense layer for three). Pooling rounds up, so
    that small pictures pass.

    Args:
        depth: 11, 13, 16 or 19: the number of weight layers in the original.
        width: Multiplies the numbers of channels 64, 128, 256, 512, 512.
        batch_norm: Whether a batch normalisation follows each convolution.

    Raises:
        InvalidInputError: If the width is not positive.

    Example:
        >>> architecture = VGGArchitecture(depth=11, width=0.125)
        >>> model = architecture.build((3, 32, 32), 10)
        >>> architecture.spec(model).axes["head.weight"][1].size
        64
    """

    def __init__(self, *, depth: VGGDepth = 16, width: float = 1.0, batch_norm: bool = True) -> None:
        if width <= 0:
            message = f"expected a positive width, got {width}"
            raise InvalidInputError(message)
        channels = [max(1, round(width * channels)) for channels in _CHANNELS]
        self._stages = [[count] * layers for count, layers in zip(channels, _STAGES[depth], strict=True)]
        self._batch_norm = batch_norm

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        channels, height, width = input_shape
        for _ in self._stages:
            height, width = -(-height // 2), -(-width // 2)
        last = self._stages[-1][-1] * height * width
        return initialised(lambda: _VGG(channels, self._stages, last, output_size, norm=self._batch_norm), generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return VGGSpec(model)


@final
class VGGSpec(TableSpec):
    """The symmetries of a VGG network: the channels of every convolution permute, block by block in the dense layer.

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


@final
class _VGG(nn.Module):
    def __init__(self, channels: int, stages: Sequence[Sequence[int]], last: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        widths = [width for stage in stages for width in stage]
        pairs = zip([channels, *widths], widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for width in widths)
        self.head = nn.Linear(last, outputs)
        self._ends = {sum(map(len, stages[: stage + 1])) - 1 for stage in range(len(stages))}

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for place, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            hidden = norm(convolution(hidden)).relu()
            if place in self._ends:
                hidden = nn.functional.max_pool2d(hidden, 2, ceil_mode=True)
        output: Tensor = self.head(hidden.flatten(1))
        return output
