"""The multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from torch import nn
from torch.nn.utils import skip_init
from typing_extensions import override

from rebasin_core.architectures.base import Architecture
from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.table import TableSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec

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


@final
class MLPArchitecture(Architecture):
    r"""Dense layers with an elementwise activation between them; inputs are flattened.

    $$ h_l = \phi(W_l h_{l-1} + b_l), \qquad f(x) = W_L h_{L-1} + b_L $$

    Weights and biases start uniform on $\pm 1/\sqrt{\text{fan in}}$, as ``nn.Linear`` does.

    Args:
        hidden: Widths of the hidden layers; empty for a linear model.
        activation: The activation $\phi$.
        bias: Whether the layers have biases.

    Raises:
        InvalidInputError: If a width is less than 1 or the activation is unknown.

    Example:
        >>> architecture = MLPArchitecture(hidden=[5, 4])
        >>> model = architecture.build((2, 3), 10)
        >>> [name for name, _ in model.named_parameters()][:2]
        ['layers.0.weight', 'layers.0.bias']
        >>> {name: group.size for name, group in architecture.spec(model).groups.items()}
        {'hidden.0': 5, 'hidden.1': 4}
    """

    def __init__(
        self, *, hidden: Sequence[int] = (512, 512, 512), activation: ActivationName = "relu", bias: bool = True
    ) -> None:
        if any(width < 1 for width in hidden):
            message = f"expected hidden widths of at least 1, got {list(hidden)}"
            raise InvalidInputError(message)
        if activation not in _ACTIVATIONS:
            message = f"expected an activation among {', '.join(get_args(ActivationName))}, got {activation!r}"
            raise InvalidInputError(message)
        self._hidden, self._activation, self._bias = tuple(hidden), activation, bias

    @override
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        widths = (math.prod(input_shape), *self._hidden, output_size)
        return _MLP(widths, _ACTIVATIONS[self._activation], bias=self._bias, generator=generator)

    @override
    def _spec(self, model: nn.Module) -> PermutationSpec:
        return MLPSpec(model)


@final
class MLPSpec(TableSpec):
    """The symmetries of an MLP: each hidden layer's units permute, inputs and outputs stay.

    Args:
        tensors: The model, or its tensors by name: ``layers.<l>.weight`` and, if there are biases, ``layers.<l>.bias``.
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
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


@final
class _MLP(nn.Module):
    """The network itself."""

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
    # skip_init leaves the global generator alone, which nn.Linear would draw from.
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
