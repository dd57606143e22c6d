"""Time to apply a random permutation, compared with copies of the same tensors.

    python tests/benchmarks/apply.py [--repeats 20] [--threads 1]

Both are interleaved in one process; times are minima. *by hand* is one `torch.index_select` for each permuted axis,
without names and checks; it leaves concatenated axes as they are. Most of the time of large copies is that of new
memory. To measure the rest, let the process keep its memory:
``MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor

import rebasin_core as rc

Case = tuple[rc.PermutationSpec, dict[str, Tensor]]


def mlp(depth: int, width: int) -> Case:
    """Return an MLP with layers of equal width."""
    axes = {
        f"{layer}.{kind}": ", ".join([f"units.{layer}", *([f"units.{layer - 1}"] * (kind == "weight"))])
        for layer in range(1, depth + 1)
        for kind in ("weight", "bias")
    }
    tensors = {name: torch.randn([width] * (1 + name.endswith("weight"))) for name in axes}
    return rc.table_spec(axes, tensors), tensors


def convolution(width: int) -> Case:
    """Return one convolution of 3 by 3."""
    tensors = {"weight": torch.randn(width, width, 3, 3)}
    return rc.table_spec({"weight": "out, in, 3, 3"}, tensors), tensors


def transformer(depth: int, width: int) -> Case:
    """Return the projections of attention, the queries, keys and values in one tensor."""
    axes = {}
    for layer in range(depth):
        axes[f"{layer}.qkv.weight"] = f"queries.{layer} + keys.{layer} + values.{layer}, stream"
        axes[f"{layer}.out.weight"] = f"stream, values.{layer}"
    tensors = {name: torch.randn(width * (3 if "qkv" in name else 1), width) for name in axes}
    sizes = {f"{part}.{layer}": width for part in ("queries", "keys") for layer in range(depth)}
    return rc.table_spec(axes, tensors, sizes=sizes), tensors


CASES: dict[str, Callable[[], Case]] = {
    "64 layers of 64 units": lambda: mlp(64, 64),
    "64 layers of 256 units": lambda: mlp(64, 256),
    "2 layers of 4096 units": lambda: mlp(2, 4096),
    "convolution, 512 channels": lambda: convolution(512),
    "8 attention layers, width 64": lambda: transformer(8, 64),
}


def by_hand(permutation: rc.Permutation, spec: rc.PermutationSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Permute axes of single groups."""
    found = {}
    for name, tensor in tensors.items():
        permuted = tensor
        for dim, axis in enumerate(spec.layout.axes[name]):
            index = permutation.indices.get(getattr(axis, "group", None) or "")
            permuted = permuted if index is None else permuted.index_select(dim, index)
        found[name] = permuted
    return found


def measured(make: Callable[[], Case], repeats: int) -> tuple[int, float, float, float]:
    """Return the number of tensors, and the times of a copy, of gathers by hand, and of `apply`."""
    spec, tensors = make()
    permutation = spec.random_permutation(generator=torch.Generator().manual_seed(0))
    ways: list[Callable[[], object]] = [
        lambda: {name: tensor.clone() for name, tensor in tensors.items()},
        lambda: by_hand(permutation, spec, tensors),
        lambda: permutation.apply(tensors),
    ]
    best = [float("inf")] * len(ways)
    for _ in range(repeats):
        for position, way in enumerate(ways):
            start = time.perf_counter()
            way()
            best[position] = min(best[position], time.perf_counter() - start)
    copy, hand, applied = best
    return len(tensors), copy, hand, applied


def main() -> None:
    """Print a table of times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for label, make in CASES.items():
        count, copy, hand, applied = measured(make, options.repeats)
        rows.append((label, count, copy * 1e3, hand / copy, applied / copy, (applied - hand) / count * 1e6))
    headers = ["", "tensors", "copy (ms)", "by hand / copy", "apply / copy", "apply - by hand (us/tensor)"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".2f", ".2f", ".2f", ".0f")))


if __name__ == "__main__":
    main()
