"""Small transformers: for pictures (ViT), and for sequences of tokens (GPT)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import TransformerBlock, initialised
from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.blocks import attention, conv, dense, embedding, norm
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.base import PermutationSpec


class AbstractTransformer(Architecture):
    """The sizes that both have.

    Args:
        width: Features of the residual stream, divisible by the number of heads.
        depth: Number of blocks.
        heads: Number of heads.
        hidden: Units of the perceptron in each block.

    Raises:
        InvalidInputError: If a size is less than 1, or the width is not divisible by the number of heads.
    """

    def __init__(self, *, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 128) -> None:
        if min(width, depth, heads, hidden) < 1:
            message = f"expected sizes of at least 1, got width {width}, depth {depth}, heads {heads}, hidden {hidden}"
            raise InvalidInputError(message)
        width_of_a_head(width, heads)
        self._width, self._depth, self._heads, self._hidden = width, depth, heads, hidden

    @final
    def _blocks(self, *, causal: bool) -> nn.Sequential:
        return nn.Sequential(
            *(TransformerBlock(self._width, self._heads, self._hidden, causal=causal) for _ in range(self._depth))
        )

    @final
    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        # What shapes do not tell: the number of heads in every block.
        return TransformerSpec(model, heads={f"blocks.{block}.heads": self._heads for block in range(self._depth)})


def width_of_a_head(width: int, heads: int) -> int:
    """Return the number of features of each head.

    Args:
        width: Features of the residual stream.
        heads: Number of heads, at least 1.

    Returns:
        Their quotient.

    Raises:
        InvalidInputError: If they do not divide.
    """
    each, rest = divmod(width, heads)
    if rest:
        message = f"expected a width divisible by the number of heads, got {width} and {heads}"
        raise InvalidInputError(message)
    return each


@final
class ViTArchitecture(AbstractTransformer):
    """A vision transformer (Dosovitskiy et al., ICLR 2021): patches, a class token, learned positions.

    Args:
        patch: Side of the square patches; must divide the sides of the pictures.
        width: Features of the residual stream, divisible by the number of heads.
        depth: Number of blocks.
        heads: Number of heads.
        hidden: Units of the perceptron in each block.

    Raises:
        InvalidInputError: If a size is not possible.

    Example:
        >>> architecture = ViTArchitecture(patch=4, width=16, depth=2, heads=2, hidden=32)
        >>> spec = architecture.spec(architecture.build((3, 32, 32), 10))
        >>> spec.groups["blocks.0.heads.query"].within
        'blocks.0.heads'
    """

    def __init__(self, *, patch: int = 4, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 128) -> None:
        super().__init__(width=width, depth=depth, heads=heads, hidden=hidden)
        self._patch = patch

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        channels, *sides = input_shape
        if any(side % self._patch for side in sides):
            message = f"expected sides divisible by the patch size {self._patch}, got pictures of {tuple(sides)}"
            raise InvalidInputError(message)
        tokens = 1 + math.prod(side // self._patch for side in sides)

        def make() -> nn.Module:
            patches = nn.Conv2d(channels, self._width, self._patch, stride=self._patch)
            return _ViT(patches, tokens, self._blocks(causal=False), self._width, output_size)

        return initialised(make, generator)


@final
class GPTArchitecture(AbstractTransformer):
    """A decoder of tokens (Radford et al. 2019): learned positions, causal attention, the embedding tied to the head.

    Its inputs are whole numbers less than the output size, the vocabulary; they are flattened to one sequence. Its
    outputs are scores for the token after each: ``[N, vocabulary, tokens]``, the form that cross entropy takes.

    Args:
        width: Features of the residual stream, divisible by the number of heads.
        depth: Number of blocks.
        heads: Number of heads.
        hidden: Units of the perceptron in each block.

    Raises:
        InvalidInputError: If a size is not possible.

    Example:
        >>> model = GPTArchitecture(width=16, depth=2, heads=2, hidden=32).build((12,), 65)
        >>> tuple(model(torch.zeros(3, 12, dtype=torch.long)).shape)
        (3, 65, 12)
    """

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        def make() -> nn.Module:
            return _GPT(output_size, math.prod(input_shape), self._blocks(causal=True), self._width)

        return initialised(make, generator)

    @override
    def _example_inputs(
        self, input_shape: tuple[int, ...], output_size: int, count: int, generator: torch.Generator
    ) -> Tensor:
        return torch.randint(output_size, (count, *input_shape), generator=generator)


@final
class TransformerSpec(TableSpec):
    """The symmetries of both: the stream, the units of every perceptron, heads, and the width inside every head.

    Args:
        tensors: The model, or its tensors by name.
        heads: The number of heads in every block, by the name of the group: ``blocks.<n>.heads``.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor], *, heads: Mapping[str, int]) -> None:
        super().__init__(tensors)
        self._heads = dict(heads)

    @property
    @override
    def table(self) -> Mapping[str, str]:
        if "patches.weight" in self.shapes:
            ends = conv("patches", "-", "stream") | {"token": "stream", "positions": "-, stream"}
            ends |= dense("head", "stream", "-")
        else:
            ends = embedding("tokens", "stream") | embedding("positions", "stream")
        table = ends | norm("norm", "stream")
        for group in self._heads:
            name = group.removesuffix(".heads")
            table |= norm(f"{name}.norm1", "stream") | norm(f"{name}.norm2", "stream")
            table |= attention(f"{name}.attention", "stream", group)
            table |= dense(f"{name}.up", "stream", f"{name}.up") | dense(f"{name}.down", f"{name}.up", "stream")
        return table

    @property
    @override
    def sizes(self) -> Mapping[str, int]:
        return self._heads


@final
class _ViT(nn.Module):
    def __init__(self, patches: nn.Module, tokens: int, blocks: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.patches, self.blocks = patches, blocks
        self.token, self.positions = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(tokens, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        token = self.token.expand(patches.shape[0], 1, -1)
        stream = self.blocks(torch.cat([token, patches], 1) + self.positions)
        output: Tensor = self.head(self.norm(stream[:, 0]))
        return output


@final
class _GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int, blocks: nn.Module, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks, self.norm = blocks, nn.LayerNorm(width)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        sequence = inputs.flatten(1)
        positions = self.positions.weight[: sequence.shape[1]]
        stream = self.norm(self.blocks(self.tokens(sequence) + positions))
        scores: Tensor = stream @ self.tokens.weight.T
        return scores.transpose(1, 2)
