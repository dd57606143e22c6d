"""Small networks with every kind of linear symmetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs import TracedSpec
    from rebasin_core.symmetry import Symmetry


class Gated(nn.Module):
    """Two layers with SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.down(functional.silu(self.gate(inputs)) * self.up(inputs))
        return output


class Transformer(nn.Module):
    """One block with normalization before each layer."""

    def __init__(self, norm: type[nn.Module], heads: int = 2, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, width = heads, groups, 16
        self.embed, self.head = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.norm1, self.norm2, self.norm = norm(width), norm(width), norm(width)
        size = width // heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, groups * size), nn.Linear(width, groups * size)
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embed(tokens)
        x = self.norm1(stream)
        batch, length, width = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.groups, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.groups, -1).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.groups != self.heads
        )
        stream = self.out(mixed.transpose(1, 2).reshape(batch, length, width)) + stream
        stream = self.down(functional.gelu(self.up(self.norm2(stream)))) + stream
        output: Tensor = self.head(self.norm(stream))
        return output


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in double precision with random weights, and inputs."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 11, (2, 5))
    makers: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        "relu": lambda: (_mlp(nn.ReLU()), torch.randn(4, 5)),
        "tanh": lambda: (_mlp(nn.Tanh()), torch.randn(4, 5)),
        "linear": lambda: (nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 12)), torch.randn(4, 12)),
        "swiglu": lambda: (Gated(), torch.randn(4, 4)),
        "batch norm": lambda: (_convolutions(), torch.randn(4, 3, 8, 8)),
        "rms": lambda: (Transformer(nn.RMSNorm), tokens),
        "layer norm": lambda: (Transformer(nn.LayerNorm), tokens),
        "grouped queries": lambda: (Transformer(nn.LayerNorm, heads=4), tokens),
    }
    module, inputs = makers[name]()
    return module.double().eval(), inputs.double() if inputs.is_floating_point() else inputs


def _mlp(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 4))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    )


def planted(
    symmetry: Symmetry, tensors: dict[str, Tensor], noise: float = 0.0, seed: int = 1
) -> tuple[dict[str, Tensor], SymmetryElement]:
    """Return a copy of a network transformed by a random element, with noise relative to each tensor's deviation."""
    generator = torch.Generator().manual_seed(seed)
    element = SymmetryElement.random(symmetry, generator=generator)
    found = {}
    for name, tensor in element.apply(tensors).items():
        added = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        found[name] = tensor + noise * tensor.std() * added if tensor.dim() > 1 else tensor
    return found, element


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of parameters and buffers."""
    return {name: t.detach().clone() for name, t in (*module.named_parameters(), *module.named_buffers())}


def traced(module: nn.Module, inputs: Tensor) -> TracedSpec:
    """Return the traced specification."""
    return rc.trace_spec(module, inputs)


def relative_distance(first: dict[str, Tensor], second: dict[str, Tensor], names: list[str] | None = None) -> float:
    """Return the distance of some tensors, by default of all floating-point ones, relative to the first norm."""
    chosen = [name for name, tensor in first.items() if tensor.is_floating_point()] if names is None else names
    squares = [(first[name] - second[name]).square().sum() for name in chosen]
    return float((sum(squares) / sum(first[name].square().sum() for name in chosen)) ** 0.5)
