"""Measure how often planted elements of networks with nested groups are recovered.

    pip install diffusers timm transformers
    python docs/results/nested_groups.py [MODEL ...] [--seeds 20]

The reference has random parameters. The candidate is a permuted copy with Gaussian noise, whose standard deviation is
given relative to the root mean square of each tensor. The matcher is `weight`. *Jointly*: a group is assigned together
with the groups nested in it. *One at a time*: each group is assigned with all others fixed. *Two levels* (for networks
that have more): a group is assigned with the groups nested in it if no others are nested in these. Both are ablations,
not options of the matcher. The table has the number of trials in which the objective of the planted element is reached,
the mean share of recovered units, and the mean CPU time of a match. Large networks have fewer trials.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from tabulate import tabulate

import rebasin_core as rc
from rebasin_core.bilinear import coordinate_descent
from rebasin_core.bilinear.levels import nested_jointly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from rebasin_core.bilinear import Term
    from rebasin_core.symmetry import Layout

NOISE = (0.0, 0.1)
LARGE = 10**7
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 41,
}
CAUSAL = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 32, "use_cache": False, "pad_token_id": 0}
GPT2 = {"vocab_size": 41, "n_embd": 16, "n_layer": 2, "n_head": 4, "use_cache": False}
REGNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1], "groups_width": 8}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, width 16": ("LlamaForCausalLM", CAUSAL),
    "Gemma, width 16": ("GemmaForCausalLM", {**CAUSAL, "head_dim": 4}),
    "GPT-2, width 16": ("GPT2LMHeadModel", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}),
    "RegNetX, widths 16, 32, 48": ("RegNetForImageClassification", {**REGNET, "layer_type": "x"}),
    "RegNetY, widths 16, 32, 48": ("RegNetForImageClassification", {**REGNET, "layer_type": "y"}),
}
TIMM = {
    "ViT, width 64": "test_vit",
    "RegNetX-200MF": "regnetx_002",
    "RegNetY-200MF": "regnety_002",
    "ResNeXt-50 32x4d": "resnext50_32x4d",
}
UNETS: dict[str, dict[str, Any]] = {
    "UNet, widths 16, 32, 64": {"block_out_channels": (16, 32, 64), "norm_num_groups": 4},
    "UNet, widths 32, 64, 128": {"block_out_channels": (32, 64, 128), "norm_num_groups": 8},
}


def network(name: str) -> tuple[nn.Module, rc.PermutationSpec]:
    """Return a network with random parameters, none of them zero or one, and its specification."""
    torch.manual_seed(0)
    inputs: dict[str, torch.Tensor] = {}
    images = torch.randn(2, 3, 64, 64)
    if name in TIMM:
        import timm  # ruff: ignore[import-outside-top-level] - an optional package

        options = {"img_size": 64} if "vit" in TIMM[name] else {}
        model: nn.Module = timm.create_model(TIMM[name], pretrained=False, num_classes=7, **options)
        args: tuple[torch.Tensor, ...] = (images,)
    elif name in UNETS:
        import diffusers  # ruff: ignore[import-outside-top-level] - an optional package

        blocks = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
        model = diffusers.UNet2DModel(16, attention_head_dim=4, **blocks, **UNETS[name])
        args = (torch.randn(1, 3, 16, 16), torch.tensor([3]))
        inputs = {"return_dict": False}
    else:
        import transformers  # ruff: ignore[import-outside-top-level] - an optional package

        kind, options = TRANSFORMERS[name]
        model_class = getattr(transformers, kind)
        model = model_class(model_class.config_class(**options))
        args = ()
        inputs = {"pixel_values": images} if "RegNet" in kind else {"input_ids": torch.randint(41, (2, 8))}
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
    model.eval()
    return model, rc.trace_spec(model, args, kwargs=inputs)


def trial(model: nn.Module, spec: rc.PermutationSpec, noise: float, seed: int) -> tuple[bool, float, float]:
    """Return whether the objective of a planted element is reached, the share of recovered units, and the CPU time."""
    generator = torch.Generator().manual_seed(seed)
    planted = spec.random_permutation(generator=generator)
    reference = rc.posteriors.PointPosterior.from_module(model)
    noisy = {
        name: tensor + noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in reference.mean.items()
    }
    candidate = planted.apply(rc.posteriors.PointPosterior(noisy, buffers=reference.buffers))
    start = time.process_time()
    result = rc.match(reference, candidate, spec, "weight", generator=generator)
    seconds = time.process_time() - start
    best = sum(float((tensor.double() * noisy[name]).sum()) for name, tensor in reference.mean.items())
    wrong = planted.compose(result.permutation)
    units = sum(index.numel() for index in wrong.indices.values())
    return result.objective >= (1 - 1e-5) * best, 1 - sum(wrong.moved.values()) / units, seconds


def two_levels(layout: Layout, name: str, terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the groups nested in a group if no others are nested in these."""
    inner = nested_jointly(layout, name, terms)
    return inner if all(layout.groups[group].within == name for group in inner) else ()


def one_level(*_: object) -> tuple[str, ...]:
    """Return no groups."""
    return ()


METHODS = {"one at a time": one_level, "two levels": two_levels, "jointly": nested_jointly}


def measured(name: str, seeds: int, method: str) -> list[str] | None:
    """Return one row of the table; None if the method is that of the next row for this network."""
    model, spec = network(name)
    if method == "two levels" and max(len(spec.layout.ancestors(group)) for group in spec.groups) == 1:
        return None
    seeds = seeds if sum(p.numel() for p in model.parameters()) < LARGE else max(1, seeds // 4)
    row = [name, method]
    times = []
    for noise in NOISE:
        with mock.patch.object(coordinate_descent, "nested_jointly", METHODS[method]):
            trials = [trial(model, spec, noise, seed) for seed in range(seeds)]
        recovered = sum(found for found, _, _ in trials)
        times += [seconds for _, _, seconds in trials]
        row.append(f"{recovered} of {seeds}, {100 * sum(share for _, share, _ in trials) / seeds:.1f} %")
    return [*row, f"{sum(times) / len(times):.3f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.models or [*TRANSFORMERS, *TIMM, *UNETS]:
        for method in METHODS:
            if row := measured(name, arguments.seeds, method):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    headers = ["network", "nested groups", *(f"noise {noise}" for noise in NOISE), "CPU time (s)"]
    print(tabulate(rows, headers, tablefmt="github"))


if __name__ == "__main__":
    main()
