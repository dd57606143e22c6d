"""Small transformers: for images (ViT), and for sequences of tokens (GPT)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self, final

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.layers import TransformerBlock, initialized
from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.blocks import attention, conv, dense, embedding, norm
from rebasin_core.specs.table import TableSpec
from rebasin_core.specs.unit_maps import UnitMaps
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.unit_maps import KindsByGroup


class AbstractTransformer(Architecture):
    """Base class of the transformers, with their common options.

    Raises:
        ConfigError: If an option is invalid.
    """

    width: PositiveInt = 64
    """Number of features in the residual stream, divisible by the number of heads."""

    depth: PositiveInt = 4
    """Number of blocks."""

    heads: PositiveInt = 4
    """Number of attention heads in each block."""

    hidden: PositiveInt = 128
    """Number of hidden units of the MLP in each block."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            message = f"expected a width divisible by the number of heads, got {self.width} and {self.heads}"
            raise ValueError(message)
        return self

    @final
    def _blocks(self, *, causal: bool) -> nn.Sequential:
        return nn.Sequential(
            *(TransformerBlock(self.width, self.heads, self.hidden, causal=causal) for _ in range(self.depth))
        )

    @final
    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        # Shapes do not determine the number of heads in a block.
        return TransformerSpec(model, heads={f"blocks.{block}.heads": self.heads for block in range(self.depth)})


@final
class ViTArchitecture(AbstractTransformer):
    """Vision transformer (ViT) with a class token and learned position embeddings.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `build`, if the patch size does not divide the image size.

    References:
        A. Dosovitskiy et al. (2021), "An image is worth 16x16 words", ICLR, arXiv 2010.11929.

    Examples:
        >>> architecture = ViTArchitecture(patch=4, width=16, depth=2, heads=2, hidden=32)
        >>> spec = architecture.spec(architecture.build((3, 32, 32), 10))
        >>> spec.groups["blocks.0.heads.query"].within
        'blocks.0.heads'
    """

    name: Literal["vit"] = "vit"

    patch: PositiveInt = 4
    """Side length of the square patches in pixels; must divide height and width of the images."""

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        channels, *sides = input_shape
        if any(side % self.patch for side in sides):
            message = f"expected image sides divisible by the patch size {self.patch}, got {tuple(sides)}"
            raise InvalidInputError(message)
        tokens = 1 + math.prod(side // self.patch for side in sides)

        def make() -> nn.Module:
            patches = nn.Conv2d(channels, self.width, self.patch, stride=self.patch)
            return _ViT(patches, tokens, self._blocks(causal=False), self.width, output_size)

        return initialized(make, generator)


@final
class GPTArchitecture(AbstractTransformer):
    """Decoder-only transformer (GPT) with learned position embeddings; the embedding is tied to the output layer.

    Inputs are integers less than ``output_size``, the size of the vocabulary, and are flattened to one sequence.
    Outputs are the logits of the token after each position, ``[N, vocabulary, tokens]``, as
    `torch.nn.functional.cross_entropy` expects.

    Raises:
        ConfigError: If an option is invalid.

    References:
        A. Radford et al. (2019), "Language models are unsupervised multitask learners".

    Examples:
        >>> model = GPTArchitecture(width=16, depth=2, heads=2, hidden=32).build((12,), 65)
        >>> tuple(model(torch.zeros(3, 12, dtype=torch.long)).shape)
        (3, 65, 12)
    """

    name: Literal["gpt"] = "gpt"

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        def make() -> nn.Module:
            return _GPT(output_size, math.prod(input_shape), self._blocks(causal=True), self.width)

        return initialized(make, generator)

    @override
    def _example_inputs(
        self, input_shape: tuple[int, ...], output_size: int, count: int, generator: torch.Generator
    ) -> Tensor:
        return torch.randint(output_size, (count, *input_shape), generator=generator)


@final
class TransformerSpec(TableSpec):
    """Permutation specification: the residual stream, hidden units of each MLP, heads, and features within each head.

    Args:
        tensors: The model, or its tensors by name.
        heads: Number of heads of every block, by the name of their group: ``blocks.<n>.heads``.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor], *, heads: Mapping[str, int]) -> None:
        super().__init__(tensors)
        self._heads = dict(heads)

    @property
    @override
    def table(self) -> Mapping[str, str]:
        if "patches.weight" in self.shapes:
            outer = conv("patches", "-", "stream") | {"token": "stream", "positions": "-, stream"}
            outer |= dense("head", "stream", "-")
        else:
            outer = embedding("tokens", "stream") | embedding("positions", "stream")
        table = outer | norm("norm", "stream")
        for group in self._heads:
            name = group.removesuffix(".heads")
            table |= norm(f"{name}.norm1", "stream") | norm(f"{name}.norm2", "stream")
            table |= attention(f"{name}.attention", "stream", group)
            table |= dense(f"{name}.up", "stream", f"{name}.up") | dense(f"{name}.down", f"{name}.up", "stream")
        return table

    @property
    @override
    def kinds(self) -> KindsByGroup:
        blocks = [group.removesuffix(".heads") for group in self._heads]
        readers = {f"{block}.norm1": f"{block}.attention.qkv.weight:1" for block in blocks}
        readers |= {f"{block}.norm2": f"{block}.up.weight:1" for block in blocks}
        readers |= {"norm": "head.weight:1"} if "head.weight" in self.shapes else {}  # not of a tied embedding
        scales = [
            UnitMaps(kind=Kind.NONZERO, produces=(f"{name}.weight", f"{name}.bias"), consumes=(reader,))
            for name, reader in readers.items()
        ]
        ones = ("norm.weight", "blocks.*.norm?.weight")
        found: dict[str, list[UnitMaps]] = {"stream": [*scales, UnitMaps(kind=Kind.ORTHOGONAL_FIXING_ONES, ones=ones)]}
        for group in self._heads:
            name = f"{group.removesuffix('.heads')}.attention"
            fused = (f"{name}.qkv.*:0.0",)
            found[f"{group}.query"] = [UnitMaps(kind=Kind.INVERTIBLE, produces=fused, consumes=(f"{name}.qkv.*:0.1",))]
            found[f"{group}.value"] = [
                UnitMaps(kind=Kind.INVERTIBLE, produces=fused, consumes=(f"{name}.out.weight:1",))
            ]
        return found

    @property
    @override
    def sizes(self) -> Mapping[str, int]:
        return self._heads


@final
class _ViT(nn.Module):
    def __init__(self, patches: nn.Module, tokens: int, blocks: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.patches = patches
        self.blocks = blocks
        self.token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

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
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = blocks
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        sequence = inputs.flatten(1)
        positions = self.positions.weight[: sequence.shape[1]]
        stream = self.norm(self.blocks(self.tokens(sequence) + positions))
        scores: Tensor = stream @ self.tokens.weight.T
        return scores.transpose(1, 2)
