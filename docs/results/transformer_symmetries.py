"""Barriers between small transformers, by the group modulo which they are aligned.

    python docs/results/transformer_symmetries.py DATA FOLDER KIND [--epochs N] [--batches N]

FOLDER has the networks that `transformer_pairs.py` trained from the seeds 0, 1 and 2; KIND is ``vit`` or ``gpt``. For
each pair, prints one JSON line per method: the barrier with its standard error over test examples, and the loss along
the line. All methods but ``unaligned`` and ``permutation`` compare networks whose normalizations are folded. Controls:
folding alone, permutations of folded networks, and refinement from permutations.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformer_pairs import CONTEXT, GPT, CharacterLikelihood, ViT, characters, images, sequences

import rebasin_core as rc
from rebasin_core.evaluation import Likelihood
from rebasin_core.matchers import ActivationMatcher, FrankWolfeMatcher, RefinedMatcher, WeightMatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rebasin_core.matchers import Matcher

Tensors = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]


def sets(data: Path, kind: str, batches: int) -> tuple[Batches, Batches]:
    """Return training batches for the refinement, and test batches."""
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        inputs, targets = images(data / "fashion_mnist", "train")
        rows = torch.randint(len(inputs), (batches, 128), generator=generator)
        test = images(data / "fashion_mnist", "t10k")
        return [(inputs[r], targets[r]) for r in rows], list(zip(*(t[:4000].split(500) for t in test), strict=True))
    text, held_out = characters(data)
    starts = torch.randint(len(text) - CONTEXT - 1, (batches, 32), generator=generator)
    tokens, following = sequences(held_out, torch.arange(0, len(held_out) - CONTEXT - 1, CONTEXT)[:600])
    return [sequences(text, s) for s in starts], list(zip(tokens.split(100), following.split(100), strict=True))


def matchers(likelihood: Likelihood, epochs: int) -> dict[str, Matcher]:
    """Return the matchers between folded networks, by the name of the method."""
    plain, full = WeightMatcher(), WeightMatcher(symmetry="full")
    return {
        "folded, permutation": plain,
        "folded, full": full,
        "folded, permutation, frank_wolfe": FrankWolfeMatcher(),
        "folded, full, frank_wolfe": FrankWolfeMatcher(symmetry="full"),
        "folded, permutation, activation": ActivationMatcher(),
        "folded, full, activation": ActivationMatcher(symmetry="full"),
        "folded, permutation, refined": RefinedMatcher(matcher=plain, epochs=epochs, likelihood=likelihood),
        "folded, full, refined": RefinedMatcher(matcher=full, epochs=epochs, likelihood=likelihood),
        "folded, full, activation, refined": RefinedMatcher(
            matcher=ActivationMatcher(symmetry="full"), epochs=epochs, likelihood=likelihood
        ),
    }


def alignments(
    pair: tuple[Tensors, Tensors], spec: rc.PermutationSpec, task: rc.Task, epochs: int, only: str
) -> Iterator[tuple[str, Tensors, Tensors]]:
    """Yield the name of each method, the reference, and the aligned candidate."""
    first, second = pair
    if not only:
        yield "unaligned", first, second
        yield "permutation", first, rc.match(first, second, spec, "weight").apply(second)
    first = rc.fold(pair[0], spec).network
    second = rc.fold(pair[1], spec).network
    if not only:
        yield "folded", first, second
    for name, matcher in matchers(Likelihood.of(task.likelihood), epochs).items():
        if only in name:
            yield name, first, rc.match(first, second, spec, matcher, task=task).apply(second)


def main() -> None:
    """Print one line per pair and method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=("vit", "gpt"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--only", default="", help="Run only the matchers with this in their name.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model: nn.Module = {"vit": ViT, "gpt": GPT}[options.kind]().eval()
    likelihood = rc.build("likelihood", name="categorical") if options.kind == "vit" else CharacterLikelihood()
    train, test = sets(options.data, options.kind, options.batches)
    spec = rc.trace_spec(model, test[0][0][:2])
    networks = {seed: load_file(options.folder / f"{options.kind}_{seed}.safetensors") for seed in (0, 1, 2)}
    for one, other in combinations(networks, 2):
        start = process_time()
        pair = networks[one], networks[other]
        for method, first, second in alignments(
            pair, spec, rc.Task(model, train, likelihood), options.epochs, options.only
        ):
            seconds = process_time() - start
            curve = rc.barrier(first, second, rc.Task(model, test, likelihood), num_points=11)
            record = {
                "kind": options.kind,
                "pair": [one, other],
                "method": method,
                "barrier": round(curve.height, 4),
                "stderr": round(curve.height_data_stderr, 4),
                "loss": [round(float(value), 4) for value in curve.loss],
                "seconds": round(seconds, 1),
            }
            print(json.dumps(record), flush=True)
            start = process_time()


if __name__ == "__main__":
    main()
