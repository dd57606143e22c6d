"""Small networks with textbook symmetries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS, WIDTH, VOCABULARY = 3, 4, 5


def dense(activation: nn.Module, *hidden: int) -> nn.Sequential:
    """Return a network of dense layers, from 3 inputs to 2 outputs."""
    layers: list[nn.Module] = []
    width = 3
    for size in hidden:
        layers += [nn.Linear(width, size), activation]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 2))


def normalized(norm: nn.Module) -> nn.Sequential:
    """Return a dense layer, a normalization of 5 units, and a dense layer."""
    return nn.Sequential(nn.Linear(3, 5), norm, nn.Linear(5, 4))


def convolutional(*between: nn.Module, bias: bool = True) -> nn.Sequential:
    """Return a convolution, some modules, and a network on top."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=bias),
        *between,
        nn.Conv2d(4, 3, 3),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


class Gated(nn.Module):
    """A SwiGLU layer, whose units enter linearly in one factor."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.down(functional.silu(self.gate(inputs)) * self.up(inputs))
        return output


class Block(nn.Module):
    """A transformer block on tokens, with learned positions, normalizations, and grouped queries.

    Args:
        norm: Returns a normalization of some width.
        heads: Number of query heads.
        key_heads: Number of key and value heads.
        activation: Activation function of the dense layers.
        is_causal: Whether a token sees earlier tokens only.
        has_bias: Whether the projections of queries, keys and values have a bias.
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        *,
        heads: int = 2,
        key_heads: int = 2,
        activation: Callable[[Tensor], Tensor] = functional.gelu,
        is_causal: bool = False,
        has_bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.key_heads, self.activation, self.is_causal = heads, key_heads, activation, is_causal
        inner = WIDTH // heads
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.norm1, self.norm2, self.norm = norm(WIDTH), norm(WIDTH), norm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH, bias=has_bias)
        self.key = nn.Linear(WIDTH, key_heads * inner, bias=has_bias)
        self.value = nn.Linear(WIDTH, key_heads * inner, bias=has_bias)
        self.out, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        stream = self.embed(inputs) + self.position
        units = self.norm1(stream)
        mixed = functional.scaled_dot_product_attention(
            _by_head(self.query(units), self.heads),
            _by_head(self.key(units), self.key_heads),
            _by_head(self.value(units), self.key_heads),
            is_causal=self.is_causal,
            enable_gqa=self.heads != self.key_heads,
        )
        middle = stream + self.out(mixed.transpose(1, 2).flatten(2))
        last = middle + self.down(self.activation(self.up(self.norm2(middle))))
        output: Tensor = self.head(self.norm(last))
        return output


def _by_head(units: Tensor, heads: int) -> Tensor:
    found: Tensor = units.unflatten(-1, (heads, -1)).transpose(1, 2)
    return found


def rows(count: int = 2) -> Tensor:
    """Return inputs of `dense` networks."""
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images(count: int = 2) -> Tensor:
    """Return inputs of `convolutional` networks."""
    return torch.randn(count, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens(count: int = 4) -> Tensor:
    """Return inputs of a `Block`."""
    return torch.randint(0, VOCABULARY, (count, TOKENS), generator=torch.Generator().manual_seed(1))
