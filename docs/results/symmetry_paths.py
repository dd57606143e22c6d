"""Train small networks on digits, and plot the loss along the path between two of them, by the symmetry group.

    python docs/results/symmetry_paths.py --figure docs/symmetries.svg

For each network, three pairs of the seeds 0, 1 and 2: unaligned, aligned by permutations, and modulo the whole group;
of transformers, whose normalizations are folded first, also refined on the training data. Prints the barriers, with
their standard errors over the 360 test images. Ten minutes on one core.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.architectures import MLPArchitecture, ViTArchitecture
from rebasin_core.data import DigitsSource
from rebasin_core.matchers import RefinedMatcher, WeightMatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rebasin_core.architectures.base import Architecture
    from rebasin_core.data import DataSplits

mpl.use("Agg")

NETWORKS: dict[str, Architecture] = {
    "MLP, tanh: permutations and signs": MLPArchitecture(hidden=(64, 64), activation="tanh"),
    "MLP, ReLU: permutations and scales": MLPArchitecture(hidden=(64, 64)),
    "ViT: rotations and invertible maps too": ViTArchitecture(patch=2, width=32, depth=2, heads=4, hidden=64),
}
STYLES = {
    "unaligned": ("C7", ":"),
    "permutations": ("C0", "--"),
    "whole group": ("C3", "-"),
    "whole group, refined on data": ("C1", "-."),
}


def trained(architecture: Architecture, data: DataSplits, seed: int) -> nn.Module:
    """Return a network that is trained for 60 epochs with Adam and weight decay."""
    generator = torch.Generator().manual_seed(seed)
    model = architecture.build(data.input_shape, data.target.output_size, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    inputs, targets = data.train.inputs, data.train.targets
    for _ in range(60):
        for rows in torch.randperm(len(inputs), generator=generator).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return model.eval()


def alignments(
    first: dict[str, Tensor], second: dict[str, Tensor], spec: rc.PermutationSpec, training: rc.Task
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Yield the name of each group, the reference, and the candidate aligned by it."""
    yield "unaligned", first, second
    yield "permutations", first, rc.match(first, second, spec, "weight").apply(second)
    is_normalized = spec.folded_symmetry != spec.symmetry
    first, second = rc.fold(first, spec).network, rc.fold(second, spec).network
    matcher = WeightMatcher(symmetry="full")
    yield "whole group", first, rc.match(first, second, spec, matcher).apply(second)
    if is_normalized:
        refined = RefinedMatcher(matcher=matcher, epochs=20)
        yield "whole group, refined on data", first, rc.match(first, second, spec, refined, task=training).apply(second)


def curves_of(architecture: Architecture, data: DataSplits) -> dict[str, list[rc.LossCurve]]:
    """Return the losses along the paths between three networks, by alignment."""
    models = [trained(architecture, data, seed) for seed in range(3)]
    batches = zip(data.train.inputs.split(128), data.train.targets.split(128), strict=True)
    training = rc.Task(models[0], list(batches))
    task = rc.Task(models[0], [(data.test.inputs, data.test.targets)])
    spec = architecture.spec(models[0])
    networks = [{name: parameter.detach() for name, parameter in model.named_parameters()} for model in models]
    found: dict[str, list[rc.LossCurve]] = {}
    for first, second in combinations(networks, 2):
        for name, reference, aligned in alignments(first, second, spec, training):
            found.setdefault(name, []).append(rc.barrier(reference, aligned, task, num_points=21))
    return found


def main() -> None:
    """Print the barriers, and plot the loss along the paths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args()
    data = DigitsSource().load()
    figure, panels = plt.subplots(1, len(NETWORKS), figsize=(9.5, 3.2), layout="constrained")
    for panel, (title, architecture) in zip(panels, NETWORKS.items(), strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("t")
        panel.spines[["top", "right"]].set_visible(False)
        for name, curves in curves_of(architecture, data).items():
            color, style = STYLES[name]
            losses = torch.stack([torch.as_tensor(curve.loss) for curve in curves])
            panel.plot(curves[0].t, losses.mean(0), color=color, linestyle=style, label=name)
            panel.fill_between(curves[0].t, losses.amin(0), losses.amax(0), color=color, alpha=0.15, linewidth=0)
            heights = ", ".join(f"{curve.height:.3f} ({curve.height_data_stderr:.3f})" for curve in curves)
            print(f"{title}; {name}: barriers {heights}; endpoints {losses[:, 0].mean():.3f}", flush=True)
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("loss (nats)")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    plt.rcParams["svg.hashsalt"] = "rebasin"
    figure.savefig(arguments.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
