"""Loss at the midpoint of small transformers, by the parts of normalizations that are folded before alignment.

    python docs/results/folding_parts.py DATA FOLDER KIND

FOLDER has the networks that `transformer_pairs.py` trained from the seeds 0, 1 and 2; KIND is ``vit`` or ``gpt``. For
each pair and each choice of parts, prints one JSON line with the losses for three seeds of the matcher.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformer_pairs import CONTEXT, GPT, ViT, characters, images, sequences

import rebasin_core as rc
from rebasin_core.matchers import WeightMatcher

MATCHER = WeightMatcher(symmetry="full")


def data(folder: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Return 2,000 test images and their labels, or 200 held-out sequences and the next characters."""
    if kind == "vit":
        inputs, targets = images(folder / "fashion_mnist", "t10k")
        return inputs[:2000], targets[:2000]
    _, text = characters(folder)
    return sequences(text, torch.arange(0, len(text) - CONTEXT - 1, CONTEXT)[:200])


def main(folder: Path, networks: Path, kind: str) -> None:
    """Print one line per pair and choice of parts."""
    torch.set_num_threads(1)
    model: nn.Module = {"vit": ViT, "gpt": GPT}[kind]().eval()
    inputs, targets = data(folder, kind)
    spec = rc.trace_spec(model, inputs[:2])
    tensors = [load_file(networks / f"{kind}_{seed}.safetensors") for seed in range(3)]

    def midpoint(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
        middle = {name: (tensor + second[name]) / 2 for name, tensor in first.items()}
        with torch.no_grad():
            return functional.cross_entropy(torch.func.functional_call(model, middle, (inputs,)), targets).item()

    for one, other in combinations(range(3), 2):
        for shifts, center in ((False, False), (True, False), (False, True), (True, True)):
            folded = [rc.fold(tensors[seed], spec, shifts=shifts, center=center).network for seed in (one, other)]
            losses: list[float] = []
            for seed in range(3):
                generator = torch.Generator().manual_seed(seed)
                result = rc.match(folded[0], folded[1], spec, MATCHER, generator=generator)
                losses.append(round(midpoint(folded[0], result.apply(folded[1])), 4))
            record = {"kind": kind, "pair": [one, other], "shifts": shifts, "center": center, "loss": losses}
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
