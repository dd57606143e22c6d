"""The residual networks of CIFAR: three stages of two-convolution blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import NormName, initialised, norm_layer, norm_rows
from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.blocks import conv, dense
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from rebasin_core.specs.base import PermutationSpec

ShortcutName: TypeAlias = Literal["conv", "pad"]


@final
class CifarResNetArchitecture(Architecture):
    """ResNet-20, -32 and so on for small pictures (He et al., CVPR 2016, section 4.2).

    Args:
        depth: ``6 n + 2`` for ``n`` blocks a stage: 8, 14, 20, 32, 44, 56.
        width: Multiplies the channels 16, 32, 64 of the three stages.
        norm: ``batch``, ``layer`` (over channels, as in Git Re-Basin) or ``frn`` (filter response normalisation, as in
            Bayesian work, where statistics over a batch have no place).
        shortcut: Where the channels double, ``conv`` projects by a 1x1 convolution and a normalisation, ``pad`` adds
            channels of zeros on both sides (option A of the paper).

    Raises:
        InvalidInputError: If the depth is not ``6 n + 2``, or the width is less than 1.

    Example:
        >>> architecture = CifarResNetArchitecture(depth=20, norm="frn")
        >>> model = architecture.build((3, 32, 32), 10)
        >>> len(architecture.spec(model).groups)
        12
    """

    def __init__(
        self, *, depth: int = 20, width: int = 1, norm: NormName = "batch", shortcut: ShortcutName = "conv"
    ) -> None:
        if width < 1:
            message = f"expected a width of at least 1, got {width}"
            raise InvalidInputError(message)
        self._blocks, self._norm, self._shortcut = blocks_a_stage(depth), norm, shortcut
        self._channels = [16 * width, 32 * width, 64 * width]

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        def make() -> nn.Module:
            return _Net(input_shape[0], self._channels, self._blocks, output_size, self._norm, self._shortcut)

        return initialised(make, generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return CifarResNetSpec(model, norm=self._norm)


def blocks_a_stage(depth: int) -> int:
    """Return the number of blocks in each of the three stages.

    Args:
        depth: ``6 n + 2``.

    Returns:
        The ``n``.

    Raises:
        InvalidInputError: If the depth is another number.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        message = f"expected a depth of 6 n + 2 (8, 14, 20, 32, ...), got {depth}"
        raise InvalidInputError(message)
    return blocks


@final
class CifarResNetSpec(TableSpec):
    """The symmetries of such a network: one group a residual stream, one inside each block.

    With padding, the channels of a stage are those of the stage before between two groups of new ones.

    Args:
        tensors: The model, or its tensors by name.
        norm: The kind of its normalisations.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor], *, norm: NormName = "batch") -> None:
        super().__init__(tensors)
        self._norm = norm

    @property
    @override
    def table(self) -> Mapping[str, str]:
        stream = "stem"
        table = conv("stem", "-", stream, bias=False) | norm_rows(self._norm, "stem_norm", stream)
        blocks = sorted({int(name.split(".")[1]) for name in self.shapes if name.startswith("blocks.")})
        for block in blocks:
            name, before = f"blocks.{block}", stream
            widened = self.shapes[f"{name}.conv2.weight"][0] != self.shapes[f"{name}.conv1.weight"][1]
            if f"{name}.shortcut.weight" in self.shapes:
                stream = name
                table |= conv(f"{name}.shortcut", before, stream, bias=False)
                table |= norm_rows(self._norm, f"{name}.shortcut_norm", stream)
            elif widened:
                stream = f"{name}.first + {before} + {name}.last"
            table |= conv(f"{name}.conv1", before, f"{name}.inner", bias=False)
            table |= norm_rows(self._norm, f"{name}.norm1", f"{name}.inner")
            table |= conv(f"{name}.conv2", f"{name}.inner", stream, bias=False)
            table |= norm_rows(self._norm, f"{name}.norm2", stream)
        return table | dense("head", stream, "-")

    @property
    @override
    def sizes(self) -> Mapping[str, int]:
        # Zeros are padded in equal parts; the tensors alone do not tell.
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
        self._stride, self._added = stride, after - before
        if before != after and shortcut == "conv":
            self.shortcut: nn.Module | None = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut_norm = norm_layer(norm, after)
        else:
            self.shortcut = None

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(self.norm1(self.conv1(inputs)).relu()))
        beside = inputs
        if self.shortcut is not None:
            beside = self.shortcut_norm(self.shortcut(inputs))
        elif self._added:
            first = self._added // 2
            thinned = inputs[:, :, :: self._stride, :: self._stride]
            beside = functional.pad(thinned, (0, 0, 0, 0, first, self._added - first))
        output: Tensor = (hidden + beside).relu()
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
