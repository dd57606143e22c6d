"""Pairs of published, independently trained checkpoints, for the other scripts in this folder.

``CHECKPOINTS`` is a folder of .npz files with the published names of the tensors: `mnist_mlp_otfusion_{0,1}`,
`mnist_cnn_seed{4,127}_epoch200`, `cifar10_resnet20B_distiller_{dense,chreg}`, `s5_mlp_seed{1,2}` and
`c113_transformer_seed{1,2}`. ``DATA`` is the folder with MNIST and CIFAR-10.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = [784, 400, 200, 100, 10]
MEAN, STDDEV = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
RESNET_NAMES = (
    (r"^conv1\.", "stem."),
    (r"^bn1\.", "stem_norm."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut_norm."),
    (r"^fc\.", "head."),
)


@dataclass(frozen=True)
class Pair:
    """Two networks of the same architecture, with data."""

    model: nn.Module
    spec: rc.PermutationSpec
    networks: tuple[rc.posteriors.PointPosterior, rc.posteriors.PointPosterior]
    train: rc.data.Examples
    test: rc.data.Examples


class Scaled(nn.Module):
    """A network with a preceding conversion from the dataset's normalization to that of its training."""

    def __init__(self, network: nn.Module, mean: Tensor | float, stddev: Tensor | float, *, centered: bool) -> None:
        super().__init__()
        self.network, self.mean, self.stddev, self.centered = network, mean, stddev, centered

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        pixels = inputs * self.stddev + self.mean
        output: Tensor = self.network((pixels - 0.5) / 0.5 if self.centered else pixels)
        return output


class GroupMLP(nn.Module):
    """An MLP on two concatenated embeddings of group elements, with one hidden layer and without biases."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"W_x": (120, 256), "W_y": (120, 256), "W": (512, 128), "W_U": (128, 120)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the product of two elements."""
        left, right = (nn.functional.one_hot(inputs[:, k].long(), 120).to(self.W) for k in (0, 1))
        output: Tensor = torch.cat([left @ self.W_x, right @ self.W_y], dim=1) @ self.W
        return output.relu() @ self.W_U


class GroupTransformer(nn.Module):
    """A transformer of one layer with four heads over three tokens, without normalization, as in TransformerLens."""

    def __init__(self) -> None:
        super().__init__()
        self.E, self.pos = nn.Parameter(torch.zeros(114, 128)), nn.Parameter(torch.zeros(3, 128))
        for name in "QKV":
            self.register_parameter(f"W_{name}", nn.Parameter(torch.zeros(4, 128, 32)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.zeros(4, 32)))
        self.W_O, self.b_O = nn.Parameter(torch.zeros(4, 32, 128)), nn.Parameter(torch.zeros(128))
        self.W_in, self.b_in = nn.Parameter(torch.zeros(128, 512)), nn.Parameter(torch.zeros(512))
        self.W_out, self.b_out = nn.Parameter(torch.zeros(512, 128)), nn.Parameter(torch.zeros(128))
        self.W_U, self.b_U = nn.Parameter(torch.zeros(128, 113)), nn.Parameter(torch.zeros(113))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the sum of two numbers, at the last token."""
        stream = nn.functional.one_hot(inputs.long(), 114).to(self.E) @ self.E + self.pos
        q, k, v = (
            torch.einsum("btd,hdw->bhtw", stream, getattr(self, f"W_{n}")) + getattr(self, f"b_{n}")[:, None]
            for n in "QKV"
        )
        later = torch.ones(3, 3, device=stream.device).triu(1).bool()
        weights = (q @ k.mT / 32**0.5).masked_fill(later, -torch.inf).softmax(-1)
        stream = stream + torch.einsum("bhtw,hwd->btd", weights @ v, self.W_O) + self.b_O
        hidden = (stream @ self.W_in + self.b_in).relu()
        stream = stream + hidden @ self.W_out + self.b_out
        output: Tensor = stream[:, -1] @ self.W_U + self.b_U
        return output


TABLES = {
    "mnist-mlp": {"fc1.weight": "a, -", "fc2.weight": "b, a", "fc3.weight": "c, b", "fc4.weight": "-, c"},
    "mnist-cnn": {
        "network.0.weight": "a, -, -, -",
        "network.0.bias": "a",
        "network.3.weight": "b, a, -, -",
        "network.3.bias": "b",
        "network.7.weight": "-, b*-",
        "network.7.bias": "-",
    },
    "s5-mlp": {"W_x": "-, x", "W_y": "-, y", "W": "x+y, h", "W_U": "h, -"},
    "c113-transformer": {
        "E": "-, d", "pos": "-, d",
        "W_Q": "heads, d, qk@heads", "W_K": "heads, d, qk@heads", "W_V": "heads, d, v@heads",
        "W_O": "heads, v@heads, d",
        "b_Q": "heads, qk@heads", "b_K": "heads, qk@heads", "b_V": "heads, v@heads", "b_O": "d",
        "W_in": "d, m", "b_in": "m", "W_out": "m, d", "b_out": "d", "W_U": "d, -", "b_U": "-",
    },
}  # fmt: skip
FILES = {
    "mnist-mlp": ("mnist_mlp_otfusion_0", "mnist_mlp_otfusion_1"),
    "mnist-cnn": ("mnist_cnn_seed4_epoch200", "mnist_cnn_seed127_epoch200"),
    "cifar10-resnet20": ("cifar10_resnet20B_distiller_dense", "cifar10_resnet20B_distiller_chreg"),
    "s5-mlp": ("s5_mlp_seed1", "s5_mlp_seed2"),
    "c113-transformer": ("c113_transformer_seed1", "c113_transformer_seed2"),
}


def network(name: str) -> nn.Module:
    """Return the network of a pair, with other weights."""
    if name == "cifar10-resnet20":
        inner = rc.architectures.CifarResNetArchitecture(depth=20, norm="batch").build((3, 32, 32), 10)
        return Scaled(inner, MEAN, STDDEV, centered=True).eval()
    if name == "mnist-cnn":  # trained on pixels in [0, 1]; those of the dataset are standardized
        blocks = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        return Scaled(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(1600, 10)), 0.1307, 0.3081, centered=False)
    if name == "mnist-mlp":
        parts: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
        for layer, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
            parts += [(f"fc{layer}", nn.Linear(inputs, outputs, bias=False)), (f"relu{layer}", nn.ReLU())]
        return nn.Sequential(OrderedDict(parts[:-1]))
    return GroupMLP() if name == "s5-mlp" else GroupTransformer()


def renamed(name: str, tensor: str) -> str:
    """Return the name in `network` of a published tensor."""
    if name == "cifar10-resnet20":
        tensor = re.sub(r"^layer(\d)\.(\d)\.", lambda m: f"blocks.{3 * (int(m[1]) - 1) + int(m[2])}.", tensor)
        for pattern, text in RESNET_NAMES:
            tensor = re.sub(pattern, text, tensor)
    if name in {"cifar10-resnet20", "mnist-cnn"}:
        return f"network.{tensor}"
    if name == "c113-transformer":
        return tensor.rsplit(".", 1)[1].replace("W_E", "E").replace("W_pos", "pos")
    return tensor


def read(name: str, path: Path, model: nn.Module) -> rc.posteriors.PointPosterior:
    """Return a checkpoint with the names of a model."""
    with np.load(path) as archive:
        found = {renamed(name, key): torch.from_numpy(archive[key]) for key in archive.files}
    buffers = {key: found.get(key, buffer) for key, buffer in model.named_buffers()}
    return rc.posteriors.PointPosterior({key: found[key] for key, _ in model.named_parameters()}, buffers=buffers)


def group_data(size: int, table: Tensor) -> tuple[rc.data.Examples, rc.data.Examples]:
    """Return a tenth of all pairs of elements as training data, and all pairs as test data."""
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    inputs = pairs.float() if size != 113 else torch.cat([pairs, torch.full((len(pairs), 1), 113)], dim=1).float()
    every = rc.data.Examples(inputs, table.reshape(-1).long())
    some = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[: len(pairs) // 10]
    return rc.data.Examples(inputs[some], every.targets[some]), every


def load(name: str, checkpoints: Path, data: Path) -> Pair:
    """Return one pair with its specification, which is checked."""
    model = network(name)
    first, second = (read(name, checkpoints / f"{file}.npz", model) for file in FILES[name])
    if name == "s5-mlp":
        train, test = group_data(120, torch.from_numpy(np.load(checkpoints / "s5_multiplication_table.npy")))
    elif name == "c113-transformer":
        numbers = torch.arange(113)
        train, test = group_data(113, (numbers[:, None] + numbers) % 113)
    else:
        splits = rc.build("dataset", name.split("-", maxsplit=1)[0], root=str(data)).load()
        train, test = splits.train.first(2000), splits.test
    spec = rc.table_spec(TABLES[name], model) if name in TABLES else rc.trace_spec(model, test.inputs[:2])
    rc.check_spec(spec, model, test.inputs[:4]).require()
    return Pair(model, spec, (first, second), train, test)
