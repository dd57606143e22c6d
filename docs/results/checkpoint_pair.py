"""Midpoint accuracy of two published MNIST checkpoints, before and after alignment.

    python checkpoint_pair.py NETWORK FIRST SECOND DATA

NETWORK is `mlp` (784-400-200-100-10 without biases, tensors fc1.weight to fc4.weight) or `cnn` (two convolutions of 32
and 64 channels with pooling and one dense layer, tensors 0.weight to 7.bias). FIRST and SECOND are .npz or .safetensors
files; DATA is the folder with MNIST.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn
from typing_extensions import override

import rebasin_core as rc

WIDTHS = [784, 400, 200, 100, 10]
TABLES = {
    "mlp": {"fc1.weight": "a, -", "fc2.weight": "b, a", "fc3.weight": "c, b", "fc4.weight": "-, c"},
    "cnn": {
        "0.weight": "a, -, -, -",
        "0.bias": "a",
        "3.weight": "b, a, -, -",
        "3.bias": "b",
        "7.weight": "-, b*-",
        "7.bias": "-",
    },
}


def network(name: str) -> nn.Module:
    """Return the network with the checkpoints' names."""
    if name == "cnn":
        blocks = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        # This one was trained on pixels in [0, 1]; the data set gives standardised ones.
        layers = [*blocks, nn.Flatten(), nn.Linear(1600, 10)]
        return nn.Sequential(OrderedDict([("pixels", Pixels()), *((str(i), layer) for i, layer in enumerate(layers))]))
    parts: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
    for layer, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        parts += [(f"fc{layer}", nn.Linear(inputs, outputs, bias=False)), (f"relu{layer}", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts[:-1]))


class Pixels(nn.Module):
    """Undoes the standardisation of the data set."""

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0, 1]."""
        return inputs * 0.3081 + 0.1307


def read(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint."""
    if Path(path).suffix == ".npz":
        with np.load(path) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    return rc.load_posterior(path).mean


def main() -> None:
    """Print the table."""
    name, first, second = sys.argv[1], read(sys.argv[2]), read(sys.argv[3])
    model, test = network(name), rc.build("dataset", "mnist", root=sys.argv[4]).load().test
    spec = rc.table_spec(TABLES[name], model)
    rc.check_spec(spec, model, test.inputs[:4]).require()
    result = rc.match(first, second, spec, matcher="weight")
    rows = []
    for label, other in (("unaligned", second), ("weight", result.apply(second))):
        curve = rc.barrier(first, other, model=model, data=test.batches(1000), num_points=25)
        scores = [f"{100 * curve.score[i]:.2f} %" for i in (0, 12, 24)]
        rows.append([label, *scores, f"{curve.height:.4f} ± {curve.height_data_stderr:.4f}"])
    headers = ["alignment", "first", "midpoint", "second", "barrier (nats, ± data)"]
    print(tabulate(rows, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
