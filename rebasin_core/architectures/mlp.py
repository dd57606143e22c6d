"""The multilayer perceptron (MLP)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from pydantic import PositiveInt
from torch import nn
from torch.nn.utils import skip_init
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.unit_maps import KindsByGroup

ActivationName: TypeAlias = Literal["relu", "tanh", "gelu", "silu", "elu", "leaky_relu", "sigmoid", "identity"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
# The linear maps of units that commute with each activation.
_KINDS = {"relu": "positive", "leaky_relu": "positive", "tanh": "sign", "sigmoid": "flip", "identity": "invertible"}


@final
class MLPArchitecture(Architecture):
    r"""Multilayer perceptron: dense layers with an elementwise activation $\phi$ between them; inputs are flattened.

    $$ h_l = \phi(W_l h_{l-1} + b_l), \qquad f(x) = W_L h_{L-1} + b_L $$

    Weights and biases are initialized uniformly on $\pm 1/\sqrt{\text{fan in}}$, as in ``nn.Linear``.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> architecture = MLPArchitecture(hidden=[5, 4])
        >>> model = architecture.build((2, 3), 10)
        >>> [name for name, _ in model.named_parameters()][:2]
        ['layers.0.weight', 'layers.0.bias']
        >>> {name: group.size for name, group in architecture.spec(model).groups.items()}
        {'hidden.0': 5, 'hidden.1': 4}
    """

    name: Literal["mlp"] = "mlp"

    hidden: tuple[PositiveInt, ...] = (512, 512, 512)
    """Widths of the hidden layers; empty for a linear model."""

    activation: ActivationName = "relu"
    """Activation after each hidden layer."""

    bias: bool = True
    """Whether the layers have biases."""

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        widths = (math.prod(input_shape), *self.hidden, output_size)
        return _MLP(widths, _ACTIVATIONS[self.activation], bias=self.bias, generator=generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return MLPSpec(model, activation=self.activation)


@final
class MLPSpec(TableSpec):
    """Permutation specification of an MLP: one group for each hidden layer; inputs and outputs are fixed.

    Args:
        tensors: The model, or its tensors by name: ``layers.<l>.weight`` and, if there are biases, ``layers.<l>.bias``.
        activation: The activation, which determines the linear maps of the units; only permutations if None.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor], *, activation: ActivationName | None = None) -> None:
        super().__init__(tensors)
        self._kind = _KINDS.get(activation or "")
        self._depth = 1 + max(
            (int(name.split(".")[1]) for name in self.shapes if name.startswith("layers.")), default=0
        )

    @property
    @override
    def table(self) -> Mapping[str, str]:
        units = ["-", *(f"hidden.{layer}" for layer in range(self._depth - 1)), "-"]
        table: dict[str, str] = {}
        for layer, (before, after) in enumerate(pairwise(units)):
            table[f"layers.{layer}.weight"] = f"{after}, {before}"
            if f"layers.{layer}.bias" in self.shapes:
                table[f"layers.{layer}.bias"] = after
        return table

    @property
    @override
    def kinds(self) -> KindsByGroup:
        # Flips of units need a bias after them.
        layers = [n for n in range(self._depth - 1) if self._kind != "flip" or f"layers.{n + 1}.bias" in self.shapes]
        return {f"hidden.{layer}": self._kind for layer in layers} if self._kind else {}


@final
class _MLP(nn.Module):
    def __init__(
        self, widths: Sequence[int], activation: type[nn.Module], *, bias: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear(n, m, bias=bias, generator=generator) for n, m in pairwise(widths))
        self.activation = activation()

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs.flatten(1)
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        output: Tensor = self.layers[-1](hidden)
        return output


def _linear(inputs: int, outputs: int, *, bias: bool, generator: torch.Generator) -> nn.Linear:
    # nn.Linear would use the global generator; skip_init does not.
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
