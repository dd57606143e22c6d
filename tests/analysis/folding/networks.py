"""Small transformers and MLPs with normalizations, with random scales and shifts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core import PermutationSpec
    from rebasin_core.api import Folded
    from rebasin_core.specs import TracedSpec

WIDTH, WORDS, LENGTH = 12, 11, 5


@final
class Attention(nn.Module):
    """Self-attention, with fewer keys than queries if ``groups`` is less than ``heads``, and rotary positions."""

    def __init__(self, heads: int = 2, groups: int = 2, *, bias: bool = True, rotary: bool = False) -> None:
        super().__init__()
        size = WIDTH // heads
        self.heads, self.groups, self.rotary = heads, groups, rotary
        self.query, self.out = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, WIDTH, bias=bias)
        self.key = nn.Linear(WIDTH, groups * size, bias=bias)
        self.value = nn.Linear(WIDTH, groups * size, bias=bias)

    @override
    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.groups, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.groups, -1).transpose(1, 2)
        if self.rotary:
            query, key = rotated(query), rotated(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, enable_gqa=self.groups != self.heads)
        output: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return output


def rotated(x: Tensor) -> Tensor:
    """Return vectors with each pair of entries rotated by an angle that is proportional to the position."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype).unsqueeze(1) / torch.arange(1, half + 1, dtype=x.dtype)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


@final
class MLP(nn.Module):
    """Two layers, or three with SwiGLU."""

    def __init__(self, *, gated: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 16, bias=bias), nn.Linear(16, WIDTH, bias=bias)
        self.gate = nn.Linear(WIDTH, 16, bias=bias) if gated else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.up(x)) if self.gate is None else functional.silu(self.gate(x)) * self.up(x)
        output: Tensor = self.down(hidden)
        return output


class RMSNorm(nn.Module):
    """A normalization in primitive operators, as in the code of Llama."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    @property
    def scale(self) -> Tensor:
        return self.weight


@final
class OffsetNorm(RMSNorm):
    """A normalization that multiplies by one plus its parameter, as in the code of Gemma."""

    @property
    @override
    def scale(self) -> Tensor:
        return 1.0 + self.weight


@final
class Block(nn.Module):
    """A transformer block, with normalization before each layer or after each sum."""

    def __init__(self, norm: type[nn.Module], attention: Attention, mlp: MLP, *, after: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.after = norm(WIDTH), norm(WIDTH), after
        self.attention, self.mlp = attention, mlp

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.after:
            x = self.norm1(x + self.attention(x))
            last: Tensor = self.norm2(x + self.mlp(x))
            return last
        x = self.attention(self.norm1(x)) + x
        output: Tensor = self.mlp(self.norm2(x)) + x
        return output


@final
class Language(nn.Module):
    """A model of tokens: GPT, Llama or BERT, depending on its blocks."""

    def __init__(self, blocks: list[Block], norm: nn.Module, *, tied: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.blocks, self.norm = nn.Sequential(*blocks), norm
        self.head = nn.Linear(WIDTH, WORDS, bias=bias)
        if tied:
            self.head.weight = self.tokens.weight

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions)))
        return output


@final
class Vision(nn.Module):
    """A vision transformer with a class token, LayerScale and a convolution for patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, WIDTH, 2, stride=2), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp, self.head = Attention(), MLP(), nn.Linear(WIDTH, 3)
        self.layer_scale = nn.Parameter(torch.randn(WIDTH))

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.layer_scale * self.attention(self.norm1(x)) + x
        x = self.mlp(self.norm2(x)) + x
        output: Tensor = self.head(self.norm(x)[:, 0])
        return output


def _gpt(*, tied: bool = False, bias: bool = True) -> nn.Module:
    blocks = [Block(nn.LayerNorm, Attention(), MLP()) for _ in range(2)]
    return Language(blocks, nn.LayerNorm(WIDTH), tied=tied, bias=bias)


def _llama(norm: type[RMSNorm] = RMSNorm, *, tied: bool = False) -> nn.Module:
    attention = Attention(heads=2, groups=1, bias=False, rotary=True)
    return Language([Block(norm, attention, MLP(gated=True, bias=False))], norm(WIDTH), tied=tied, bias=False)


def _bert() -> nn.Module:
    blocks = [Block(nn.LayerNorm, Attention(), MLP(), after=True) for _ in range(2)]
    return Language(blocks, nn.LayerNorm(WIDTH))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)
    )


MODELS = {
    "mlp": _mlp,
    "vision": Vision,
    "gpt": _gpt,
    "gpt without bias": lambda: _gpt(bias=False),
    "tied gpt": lambda: _gpt(tied=True),
    "llama": _llama,
    "gemma": lambda: _llama(OffsetNorm),
    "tied gemma": lambda: _llama(OffsetNorm, tied=True),
    "bert": _bert,
}


@final
@dataclass(frozen=True)
class Example:
    """A model in double precision with random scales and shifts, inputs, and its specification."""

    model: nn.Module
    inputs: Tensor
    spec: TracedSpec

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Copies of the parameters."""
        return {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}


@cache
def example(name: str, seed: int = 0) -> Example:
    """Return one of the models, which tests do not change."""
    torch.manual_seed(seed)
    model = randomized(MODELS[name]().double().eval())
    inputs = {"mlp": torch.randn(7, 6), "vision": torch.randn(3, 1, 8, 8)}.get(name)
    given = torch.randint(0, WORDS, (3, LENGTH)) if inputs is None else inputs.double()
    return Example(model, given, rc.trace_spec(model, given))


def randomized(model: nn.Module) -> nn.Module:
    """Return a model after drawing its vectors: signs and sizes of scales differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter))
    return model


def outputs(model: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Return the outputs of a model with given parameters."""
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(model, tensors, (inputs,))
    return found


def fold(
    network: Mapping[str, Tensor],
    spec: PermutationSpec,
    *,
    scales: bool = True,
    shifts: bool = True,
    center: bool = True,
) -> Folded[dict[str, Tensor]]:
    """Fold a network, by default all parts of its normalizations."""
    return rc.fold(network, spec, scales=scales, shifts=shifts, center=center)
