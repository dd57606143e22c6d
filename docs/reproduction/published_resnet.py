"""Two published ResNet-20s of CIFAR-10 with batch normalisation: the line between them, aligned, and repaired.

    python docs/reproduction/published_resnet.py FIRST SECOND DATA

FIRST and SECOND are .npz or .safetensors files with the names of the usual CIFAR ResNet (conv1, bn1, layer1.0.conv1,
layer2.0.downsample.0, ..., fc), trained on pixels (x / 255 - 0.5) / 0.5; DATA is the folder with CIFAR-10.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn
from typing_extensions import override

import rebasin_core as rc

MEAN, STDDEV = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
NAMES = (
    (r"^conv1\.", "stem."),
    (r"^bn1\.", "stem_norm."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut_norm."),
    (r"^fc\.", "head."),
)


class Scaled(nn.Module):
    """The network, on the pixels that it was trained with instead of those that the data set gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        output: torch.Tensor = self.network(((inputs * STDDEV + MEAN) - 0.5) / 0.5)
        return output


def read(path: Path, model: nn.Module) -> rc.PointPosterior:
    """Return a checkpoint under the names of our network."""
    with np.load(path) as archive:
        found = {name: torch.from_numpy(archive[name]) for name in archive.files}
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        ours = re.sub(r"^layer(\d)\.(\d)\.", lambda m: f"blocks.{3 * (int(m[1]) - 1) + int(m[2])}.", name)
        for pattern, text in NAMES:
            ours = re.sub(pattern, text, ours)
        renamed[f"network.{ours}"] = tensor
    buffers = {name: renamed.get(name, buffer) for name, buffer in model.named_buffers()}
    return rc.PointPosterior({name: renamed[name] for name, _ in model.named_parameters()}, buffers=buffers)


def main() -> None:  # ruff: ignore[too-many-locals] - a script
    """Print the table."""
    architecture = rc.CifarResNetArchitecture(depth=20, norm="batch")
    model = Scaled(architecture.build((3, 32, 32), 10)).eval()
    data = rc.build("dataset", "cifar10", root=sys.argv[3]).load()
    spec = rc.trace_spec(model, data.test.inputs[:2])
    ends = [read(Path(path), model) for path in sys.argv[1:3]]
    calibration, test = list(data.train.first(1000).batches(500)), list(data.test.batches(500))
    found = [rc.score(end, model=model, data=test) for end in ends]
    print(*(f"{100 * end.values['accuracy']:.2f} %, {end.nll:.3f} nats" for end in found), sep="; ", flush=True)
    chord = (found[0].nll + found[1].nll) / 2
    rows = []
    for matcher in (None, "weight", "activation"):
        for repair in (None, "reset", "repair"):
            start = time.time()
            merged = rc.merge(ends, spec, matcher=matcher, repair=repair, model=model, data=calibration)
            seconds = time.time() - start
            middle = rc.score(merged.posterior, model=model, data=test)
            accuracy, height = f"{100 * middle.values['accuracy']:.2f} %", f"{middle.nll - chord:.3f}"
            rows.append([matcher or "unaligned", repair or "-", accuracy, height, f"{seconds:.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    print(
        tabulate(rows, ["alignment", "statistics", "midpoint", "above the ends (nats)", "seconds"], tablefmt="github")
    )


if __name__ == "__main__":
    main()
