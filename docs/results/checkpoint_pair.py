"""Midpoint accuracy of two MNIST checkpoints (784-400-200-100-10, no biases), before and after alignment.

    python checkpoint_pair.py FIRST SECOND DATA

FIRST and SECOND are .npz or .safetensors files with tensors fc1.weight to fc4.weight; DATA is the folder with MNIST.
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

import rebasin_core as rc

TABLE = {"fc1.weight": "a, -", "fc2.weight": "b, a", "fc3.weight": "c, b", "fc4.weight": "-, c"}
WIDTHS = [784, 400, 200, 100, 10]


def network() -> nn.Module:
    """Return the network with the checkpoints' names."""
    parts: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
    for layer, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        parts += [(f"fc{layer}", nn.Linear(inputs, outputs, bias=False)), (f"relu{layer}", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts[:-1]))


def read(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint."""
    if Path(path).suffix == ".npz":
        with np.load(path) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    return rc.load_posterior(path).mean


def main() -> None:
    """Print the table."""
    first, second = read(sys.argv[1]), read(sys.argv[2])
    model, test = network(), rc.build("dataset", "mnist", root=sys.argv[3]).load().test
    spec = rc.table_spec(TABLE, model)
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
