"""Several implementations of one network with two hidden layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, starmap
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc

Layers: TypeAlias = "Sequence[tuple[Tensor, Tensor]]"
"""Weights ``[outputs, inputs]`` and biases ``[outputs]``."""


class MyLinear(nn.Linear):
    pass


class Dense(nn.Module):
    """Custom layer that calls ``linear``."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    @override
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Affine(nn.Module):
    """Custom layer with a weight ``[inputs, outputs]`` that adds its bias in a separate operation."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.matrix, self.offset = nn.Parameter(weight.T.clone()), nn.Parameter(bias.clone())

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix + self.offset


class Functional(nn.Module):
    """Network without submodules: parameters and functional operations only."""

    def __init__(
        self, layers: Layers, step: Callable[[Tensor, Tensor, Tensor], Tensor], *, is_transposed: bool
    ) -> None:
        super().__init__()
        self.step, self.is_transposed = step, is_transposed
        for number, (weight, bias) in enumerate(layers):
            setattr(self, f"w{number}", nn.Parameter((weight.T if is_transposed else weight).clone()))
            setattr(self, f"b{number}", nn.Parameter(bias.clone()))

    @override
    def forward(self, x: Tensor) -> Tensor:
        own = dict(self.named_parameters())
        for number in range(3):
            x = self.step(x if number == 0 else torch.tanh(x), own[f"w{number}"], own[f"b{number}"])
        return x


def _linear(layer_class: type[nn.Linear], weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = layer_class(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _sequential(layers: Layers, make: Callable[[Tensor, Tensor], nn.Module]) -> nn.Module:
    first, second, third = starmap(make, layers)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third)


IMPLEMENTATIONS: Mapping[str, Callable[[Layers], nn.Module]] = {
    "linear": lambda layers: _sequential(layers, lambda w, b: _linear(nn.Linear, w, b)),
    "subclass": lambda layers: _sequential(layers, lambda w, b: _linear(MyLinear, w, b)),
    "own": lambda layers: _sequential(layers, Dense),
    "transposed": lambda layers: _sequential(layers, Affine),
    "functional": lambda layers: Functional(layers, functional.linear, is_transposed=False),
    "addmm": lambda layers: Functional(layers, lambda x, w, b: torch.addmm(b, x, w), is_transposed=True),
    "einsum": lambda layers: Functional(
        layers, lambda x, w, b: torch.einsum("ni,io->no", x, w).add_(b), is_transposed=True
    ),
    "matmul": lambda layers: Functional(layers, lambda x, w, b: x.matmul(w.mT) + b[None], is_transposed=False),
}
OTHER_IMPLEMENTATIONS = [name for name in IMPLEMENTATIONS if name != "linear"]


def layers(widths: Sequence[int] = (5, 7, 6, 3), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(after, before, generator=generator, dtype=torch.float64) / before**0.5,
            0.3 * torch.randn(after, generator=generator, dtype=torch.float64),
        )
        for before, after in pairwise(widths)
    ]


def spec_of(model: nn.Module) -> rc.PermutationSpec:
    """Return the permutation groups of both hidden layers, for any implementation."""
    names = list(dict(model.named_parameters()))
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    rows: dict[str, str] = {}
    units = ("-", "first", "second", "-")
    for number in range(3):
        weight, bias = names[2 * number : 2 * number + 2]
        axes = [units[number + 1], units[number]]
        is_transposed = (
            shapes[weight][0] != shapes[bias][0] or "matrix" in weight or getattr(model, "is_transposed", False)
        )
        rows |= {weight: ", ".join(axes[::-1] if is_transposed else axes), bias: units[number + 1]}
    return rc.table_spec(rows, model)


def as_outputs_inputs(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the weights ``[outputs, inputs]`` and biases ``[outputs]`` of any implementation."""
    found = list(tensors.values())
    is_transposed = getattr(model, "is_transposed", False) or any("matrix" in name for name in tensors)
    return [tensor.T if is_transposed and tensor.dim() > 1 else tensor for tensor in found]
