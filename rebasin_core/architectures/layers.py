"""Layers of several architectures, and their initialization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.specs.blocks import batch_norm, norm
from rebasin_core.specs.unit_maps import UnitMaps
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NormName: TypeAlias = Literal["batch", "layer", "frn"]


@final
class ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels at each position of a feature map ``[N, channels, height, width]``.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Reset to unit scales and zero biases."""
        _reset_norm(self)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        last = inputs.movedim(1, -1)
        return functional.layer_norm(last, self.weight.shape, self.weight, self.bias).movedim(-1, 1)


@final
class FilterResponseNorm(nn.Module):
    r"""Filter response normalization with its thresholded linear unit (Singh and Krishnan, CVPR 2020).

    $$ y = \max\!\left(\gamma \frac{x}{\sqrt{\operatorname{mean}_{hw} x^2 + \epsilon}} + \beta, \tau\right) $$

    Args:
        channels: Number of channels.
        eps: Constant $\epsilon$, positive.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))
        self._eps = eps

    def reset_parameters(self) -> None:
        """Reset to unit scales, zero biases and zero thresholds."""
        _reset_norm(self)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight[:, None, None]
        bias = self.bias[:, None, None]
        threshold = self.threshold[:, None, None]
        scale = weight * torch.rsqrt(inputs.square().mean((2, 3), keepdim=True) + self._eps)
        # max(y, t) as relu(y - t) + t, because the backward pass of a maximum is four times slower.
        return torch.relu(inputs * scale + (bias - threshold)) + threshold


@final
@dataclass(frozen=True, slots=True)
class NormalizedLayer:
    """A layer that is normalized and, alone or after a sum with others, rectified.

    Attributes:
        name: Name of the layer.
        norm: Name of its normalization.
        inputs: Axis of its input units, in the notation of tables.
        outputs: Axis of its output units.
    """

    name: str
    norm: str
    inputs: str
    outputs: str


def kinds_of_layers(
    name: NormName, layers: Sequence[NormalizedLayer], head: str, inputs: str
) -> dict[str, list[UnitMaps]]:
    """Return the linear maps of units that are normalized and rectified.

    Each layer and its normalization admit signs of their own: the normalization does not see the sign of its input, if
    its scale changes sign too. Behind the normalizations, the units admit positive scales.

    Args:
        name: ``batch``, ``layer`` or ``frn``.
        layers: All layers.
        head: Name of the dense layer that consumes the last units.
        inputs: Axis of these units.

    Returns:
        The families of every group.
    """
    statistics = {"batch": ("weight", "running_mean"), "frn": ("weight",), "layer": ()}[name]
    outputs = ("weight", "bias", "threshold") if name == "frn" else ("weight", "bias")
    found: dict[str, list[UnitMaps]] = {}
    for group in dict.fromkeys(group for layer in layers for group in _groups_of(layer.outputs)):
        own = [layer for layer in layers if group in _groups_of(layer.outputs)]
        signs = [(f"{one.name}.*:0", *(f"{one.norm}.{tensor}" for tensor in statistics)) for one in own]
        found[group] = [UnitMaps(kind=Kind.SIGN, produces=produces) for produces in signs if statistics]
        readers = [layer.name for layer in layers if group in _groups_of(layer.inputs)]
        readers += [head] if group in _groups_of(inputs) else []
        produces = tuple(f"{layer.norm}.{tensor}" for layer in own for tensor in outputs)
        consumes = tuple(f"{reader}.weight:1" for reader in readers)
        found[group].append(UnitMaps(kind=Kind.POSITIVE, produces=produces, consumes=consumes))
    return found


def _groups_of(axis: str) -> list[str]:
    """Return the groups of a concatenation, or of a product with positions."""
    return axis.removesuffix("*-").split(" + ")


def norm_layer(name: NormName, channels: int) -> nn.Module:
    """Create a normalization of feature maps.

    Args:
        name: ``batch``, ``layer`` or ``frn``.
        channels: Number of channels.

    Returns:
        The layer.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    return ChannelLayerNorm(channels) if name == "layer" else FilterResponseNorm(channels)


def norm_rows(kind: NormName, name: str, units: str) -> dict[str, str]:
    """Return the rows of a layer from `norm_layer` in a table.

    Args:
        kind: ``batch``, ``layer`` or ``frn``.
        name: Name of the layer.
        units: Axis of the channels.

    Returns:
        The rows.
    """
    if kind == "batch":
        return batch_norm(name, units)
    return norm(name, units) | ({f"{name}.threshold": units} if kind == "frn" else {})


@final
class SelfAttention(nn.Module):
    """Multi-head self-attention with a fused projection of queries, keys and values.

    Args:
        width: Number of input and output features, divisible by the number of heads.
        heads: Number of heads.
        causal: Whether each token attends only to itself and earlier tokens.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self._heads = heads
        self._causal = causal

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        batch, tokens, width = inputs.shape
        fused = self.qkv(inputs).view(batch, tokens, 3, self._heads, width // self._heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self._causal)
        output: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return output


@final
class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention and a two-layer MLP, each with layer norm and a residual connection.

    Args:
        width: Number of features of the residual stream.
        heads: Number of heads.
        hidden: Number of hidden units of the MLP.
        causal: Whether each token attends only to itself and earlier tokens.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        stream = inputs + self.attention(self.norm1(inputs))
        output: Tensor = stream + self.down(functional.gelu(self.up(self.norm2(stream))))
        return output


def initialized(make: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    r"""Create a network whose initial parameters depend only on a generator.

    Weights and biases of dense and convolutional layers are uniform on $\pm 1 / \sqrt{\text{fan in}}$, as in PyTorch.
    Embeddings and other parameters are normal with standard deviation 0.02. Normalizations have unit scales and zero
    biases.

    Args:
        make: Function that creates the network.
        generator: Random number generator.

    Returns:
        The network, on the CPU.
    """
    with torch.device("meta"):  # no random numbers are drawn on this device
        model = make()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for module in model.modules():
            _initialize(module, generator)
    return model


def _reset_norm(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.fill_(1.0 if name == "weight" else 0.0)


def _initialize(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        bound = 1 / math.sqrt(module.weight[0].numel())
        for parameter in module.parameters(recurse=False):
            parameter.uniform_(-bound, bound, generator=generator)
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d | ChannelLayerNorm | FilterResponseNorm):
        _reset_norm(module)
        for name, buffer in module.named_buffers(recurse=False):
            buffer.fill_(1 if name == "running_var" else 0)
    else:
        for parameter in module.parameters(recurse=False):
            parameter.normal_(0.0, 0.02, generator=generator)
