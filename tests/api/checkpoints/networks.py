"""Small networks with the units that may be permuted, written by hand, and files of permuted copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

Tensors: TypeAlias = dict[str, Tensor]


class Mlp(nn.Sequential):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


class Wide(nn.Sequential):
    """Two wide hidden layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 4))


class Convolutional(nn.Sequential):
    """A convolution with batch statistics, and a layer over its flattened channels."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10), nn.ReLU(),
            nn.Linear(10, 10),
        )  # fmt: skip


class Tied(nn.Module):
    """An embedding with the same weights as the output."""

    def __init__(self, tokens: int = 11) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 8)
        self.hidden = nn.Linear(8, 14)
        self.back = nn.Linear(14, 8)
        self.head = nn.Linear(8, tokens, bias=False)
        self.head.weight = self.embedding.weight

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.back(self.hidden(self.embedding(tokens)).relu()))
        return found


class Attention(nn.Module):
    """Attention with 3 heads of width 4, whose order and whose entries may be permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 12)
        self.key = nn.Linear(6, 12)
        self.value = nn.Linear(6, 12)
        self.out = nn.Linear(12, 6)

    @override
    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, 3, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, 12))
        return found


@dataclass(frozen=True)
class Case:
    """A network and its symmetries.

    Attributes:
        kind: Class of the network.
        inputs: Its inputs, as the text of the option.
        axes: For every group of units, the tensors and dimensions that it permutes.
        sizes: Number of units of every group.
        blocks: For groups of which only consecutive units may be permuted with each other, their number.
    """

    kind: type[nn.Module]
    inputs: str
    axes: Mapping[str, tuple[tuple[str, int], ...]]
    sizes: Mapping[str, int]
    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, object]:
        """The model, as an option."""
        return {"name": "factory", "factory": f"{__name__}:{self.kind.__name__}", "inputs": [self.inputs]}

    def batch(self) -> Tensor:
        """Return inputs."""
        generator = torch.Generator().manual_seed(5)
        shape, _, limit = self.inputs.partition(":int<")
        sizes = [int(size) for size in shape.split(",")]
        return (
            torch.randint(int(limit), sizes, generator=generator) if limit else torch.randn(sizes, generator=generator)
        )

    def network(self, seed: int = 0) -> Tensors:
        """Return the tensors of a random network, with batch statistics that differ between units."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.kind()
            tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            for name, tensor in tensors.items():
                if name.endswith("running_mean"):
                    tensor.normal_()
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2.0)
        return tensors

    def orders(self, seed: int = 1) -> dict[str, Tensor]:
        """Return a random order of the units of every group."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for group, size in self.sizes.items():
            block = self.blocks.get(group, size)
            starts = range(0, size, block)
            found[group] = torch.cat([start + torch.randperm(block, generator=generator) for start in starts])
        return found

    def permuted(self, tensors: Mapping[str, Tensor], orders: Mapping[str, Tensor]) -> Tensors:
        """Return tensors with permuted units; axes with several positions per unit keep those together."""
        found = dict(tensors)
        for group, axes in self.axes.items():
            for name, dim in axes:
                tensor, order = found[name], orders[group]
                width = tensor.shape[dim] // len(order)
                rows = (order[:, None] * width + torch.arange(width)).reshape(-1)
                found[name] = tensor.index_select(dim, rows).contiguous()
        return found

    def outputs(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of the module in double precision, after `load_state_dict`."""
        module = self.kind().double().eval()
        own = module.state_dict()
        module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
        batch = self.batch()
        with torch.no_grad():
            found: Tensor = module(batch.double() if batch.is_floating_point() else batch)
        return found


MLP = Case(
    Mlp,
    "5,8",
    {
        "first": (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)),
        "second": (("2.weight", 0), ("2.bias", 0), ("4.weight", 1)),
    },
    {"first": 16, "second": 12},
)
WIDE = Case(Wide, MLP.inputs, MLP.axes, {"first": 96, "second": 64})
CONVOLUTIONAL = Case(
    Convolutional,
    "4,1,8,8",
    {
        "channels": (
            ("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("1.running_mean", 0), ("1.running_var", 0),
            ("4.weight", 1),
        ),
        "hidden": (("4.weight", 0), ("4.bias", 0), ("6.weight", 1)),
    },
    {"channels": 6, "hidden": 10},
)  # fmt: skip
TIED = Case(
    Tied,
    "2,7:int<11",
    {
        "stream": (
            ("embedding.weight", 1), ("head.weight", 1), ("back.weight", 0), ("back.bias", 0), ("hidden.weight", 1),
        ),
        "hidden": (("hidden.weight", 0), ("hidden.bias", 0), ("back.weight", 1)),
    },
    {"stream": 8, "hidden": 14},
)  # fmt: skip
ATTENTION = Case(
    Attention,
    "2,5,6",
    {
        "heads": (
            *((f"{name}.{kind}", 0) for name in ("query", "key", "value") for kind in ("weight", "bias")),
            ("out.weight", 1),
        ),
        "queries": tuple((f"{name}.{kind}", 0) for name in ("query", "key") for kind in ("weight", "bias")),
        "values": (("value.weight", 0), ("value.bias", 0), ("out.weight", 1)),
    },
    {"heads": 3, "queries": 12, "values": 12},
    {"queries": 4, "values": 4},
)  # fmt: skip
CASES = {"mlp": MLP, "convolutional": CONVOLUTIONAL, "tied": TIED, "attention": ATTENTION}


def noisy(tensors: Mapping[str, Tensor], scale: float, seed: int = 2) -> Tensors:
    """Return tensors with noise; tensors with equal memory remain equal."""
    generator = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for name, tensor in tensors.items():
        same = next((other for other in found if torch.equal(tensors[other], tensor)), None)
        if same is not None and tensor.dim() > 1:
            found[name] = found[same]
        elif tensor.is_floating_point() and not name.endswith("running_var"):
            found[name] = tensor + scale * torch.randn(tensor.shape, generator=generator)
        else:
            found[name] = tensor
    return found


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors as a file of the safetensors library."""
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path
