"""Residual networks for CIFAR: three stages of blocks with two convolutions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from pydantic import PositiveFloat, field_validator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import (
    NormalizedLayer,
    NormName,
    initialized,
    kinds_of_layers,
    norm_layer,
    norm_rows,
)
from rebasin_core.specs.blocks import conv, dense
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.unit_maps import KindsByGroup

ShortcutName: TypeAlias = Literal["conv", "pad"]


@final
class CifarResNetArchitecture(Architecture):
    """Residual network for small images, such as ResNet-20: three stages with 16, 32 and 64 channels, times ``width``.

    Raises:
        ConfigError: If an option is invalid.

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), "Deep residual learning for image recognition", CVPR, arXiv 1512.03385,
        section 4.2.

    Examples:
        >>> architecture = CifarResNetArchitecture(depth=20, norm="frn")
        >>> model = architecture.build((3, 32, 32), 10)
        >>> len(architecture.spec(model).groups)
        12
    """

    name: Literal["cifar_resnet"] = "cifar_resnet"

    depth: int = 20
    """Number of weight layers, ``6 n + 2`` with ``n`` blocks in each of the three stages: 8, 14, 20, 32, 44, 56, ..."""

    width: PositiveFloat = 1
    """Factor of the numbers of channels of the stages (16, 32 and 64); a multiple of 1/16."""

    norm: NormName = "batch"
    """Normalization: ``batch``; ``layer`` (over channels, as in Git Re-Basin); or ``frn`` (filter response
    normalization, common in Bayesian deep learning because it needs no batch statistics)."""

    shortcut: ShortcutName = "conv"
    """Shortcut of blocks that double the number of channels: ``conv`` (a 1x1 convolution and a normalization) or
    ``pad`` (padding with channels of zeros on both sides; option A of the paper)."""

    @field_validator("depth")
    @classmethod
    def _is_possible(cls, depth: int) -> int:
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            message = f"expected 6 n + 2 (8, 14, 20, 32, ...), got {depth}"
            raise ValueError(message)
        return depth

    @field_validator("width")
    @classmethod
    def _is_whole(cls, width: float) -> float:
        if not (16 * width).is_integer():
            message = (
                f"expected a multiple of 1/16, since the first stage has 16 channels per unit of width, got {width}"
            )
            raise ValueError(message)
        return width

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        channels = [round(base * self.width) for base in (16, 32, 64)]
        blocks = (self.depth - 2) // 6

        def make() -> nn.Module:
            return _Net(input_shape[0], channels, blocks, output_size, self.norm, self.shortcut)

        return initialized(make, generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return CifarResNetSpec(model, norm=self.norm)


@final
class CifarResNetSpec(TableSpec):
    """Permutation specification: one group for each residual stream, and one inside each block.

    With ``pad`` shortcuts, the channels of a stage are the concatenation of a new group, the channels of the previous
    stage, and a second new group.

    Args:
        tensors: The model, or its tensors by name.
        norm: Type of the normalizations: ``batch``, ``layer`` or ``frn``.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor], *, norm: NormName = "batch") -> None:
        super().__init__(tensors)
        self._norm = norm

    @property
    @override
    def table(self) -> Mapping[str, str]:
        table: dict[str, str] = {}
        for layer in self._layers:
            table |= conv(layer.name, layer.inputs, layer.outputs, bias=False)
            table |= norm_rows(self._norm, layer.norm, layer.outputs)
        return table | dense("head", self._layers[-1].outputs, "-")

    @property
    @override
    def kinds(self) -> KindsByGroup:
        return kinds_of_layers(self._norm, self._layers, "head", self._layers[-1].outputs)

    @cached_property
    def _layers(self) -> list[NormalizedLayer]:
        """The convolutions, each with its normalization."""
        stream = "stem"
        found = [NormalizedLayer("stem", "stem_norm", "-", stream)]
        blocks = sorted({int(name.split(".")[1]) for name in self.shapes if name.startswith("blocks.")})
        for name in (f"blocks.{block}" for block in blocks):
            before = stream
            widened = self.shapes[f"{name}.conv2.weight"][0] != self.shapes[f"{name}.conv1.weight"][1]
            if f"{name}.shortcut.weight" in self.shapes:
                stream = name
                found.append(NormalizedLayer(f"{name}.shortcut", f"{name}.shortcut_norm", before, stream))
            elif widened:
                stream = f"{name}.first + {before} + {name}.last"
            found += [
                NormalizedLayer(f"{name}.conv1", f"{name}.norm1", before, f"{name}.inner"),
                NormalizedLayer(f"{name}.conv2", f"{name}.norm2", f"{name}.inner", stream),
            ]
        return found

    @property
    @override
    def sizes(self) -> Mapping[str, int]:
        # The shapes do not determine the padding, which is split equally between both sides.
        found: dict[str, int] = {}
        for name, shape in self.shapes.items():
            block = name.removesuffix(".conv2.weight")
            if block != name and f"{block}.shortcut.weight" not in self.shapes:
                added = shape[0] - self.shapes[f"{block}.conv1.weight"][1]
                found |= {f"{block}.first": added // 2, f"{block}.last": added - added // 2} if added else {}
        return found


@final
class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, norm: NormName, shortcut: ShortcutName) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm_layer(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, after)
        self._stride = stride
        self._added = after - before
        if before != after and shortcut == "conv":
            self.shortcut: nn.Module | None = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut_norm = norm_layer(norm, after)
        else:
            self.shortcut = None

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(self.norm1(self.conv1(inputs)).relu()))
        shortcut = inputs
        if self.shortcut is not None:
            shortcut = self.shortcut_norm(self.shortcut(inputs))
        elif self._added:
            first = self._added // 2
            strided = inputs[:, :, :: self._stride, :: self._stride]
            shortcut = functional.pad(strided, (0, 0, 0, 0, first, self._added - first))
        output: Tensor = (hidden + shortcut).relu()
        return output


@final
class _Net(nn.Module):
    def __init__(  # ruff: ignore[too-many-positional-arguments] - private, called once
        self,
        inputs: int,
        channels: Sequence[int],
        blocks: int,
        outputs: int,
        norm: NormName,
        shortcut: ShortcutName,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, channels[0], 3, padding=1, bias=False)
        self.stem_norm = norm_layer(norm, channels[0])
        widths = [channels[0], *(width for width in channels for _ in range(blocks))]
        strides = [2 if block and block % blocks == 0 else 1 for block in range(3 * blocks)]
        self.blocks = nn.Sequential(
            *(_Block(widths[i], widths[i + 1], stride, norm, shortcut) for i, stride in enumerate(strides))
        )
        self.head = nn.Linear(channels[-1], outputs)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.blocks(self.stem_norm(self.stem(inputs)).relu())
        output: Tensor = self.head(hidden.mean((2, 3)))
        return output
