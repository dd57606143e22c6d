"""Compare weight matching by rebasin_core, a plain implementation of Git Re-Basin, and the package `rebasin`.

    pip install rebasin            # in a separate environment, if it requires another version of torch
    python tests/benchmarks/matching.py [CASE ...] [--peer PYTHON]

Each measurement runs in its own process on one thread, for the same two networks. Times are wall-clock times, the
objective is the inner product of the two networks after alignment. *Greedy* (the default), *identity* and *best* are
the starts of rebasin_core. *Plain* is Algorithm 1 of Git Re-Basin as its ports implement it: initialized at the
identity, groups visited in random order, all similarity matrices recomputed, assignments by SciPy, until a sweep does
not increase the objective; on the same groups. The package derives its own groups. ``--peer`` is the Python interpreter
with the package (and scikit-learn); without it, that column is empty.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.matchers.channel import Start
from rebasin_core.specs.files import GivenSpec

if TYPE_CHECKING:
    from collections.abc import Callable

Case = tuple[rc.Architecture, tuple[int, ...], int]
CASES: dict[str, Callable[[], Case]] = {
    "mlp-3x512": lambda: (rc.architectures.MLPArchitecture(hidden=[512] * 3), (784,), 10),
    "mlp-3x2048": lambda: (rc.architectures.MLPArchitecture(hidden=[2048] * 3), (784,), 10),
    "resnet20-x1": lambda: (rc.architectures.CifarResNetArchitecture(depth=20), (3, 32, 32), 10),
    "resnet20-x4": lambda: (rc.architectures.CifarResNetArchitecture(depth=20, width=4), (3, 32, 32), 10),
    "resnet20-x16": lambda: (rc.architectures.CifarResNetArchitecture(depth=20, width=16), (3, 32, 32), 10),
    "vgg16": lambda: (rc.architectures.VGGArchitecture(depth=16), (3, 32, 32), 10),
    "resnet50": lambda: (rc.architectures.ResNetArchitecture(depth=50), (3, 64, 64), 1000),
    "vit-b16": lambda: (
        rc.architectures.ViTArchitecture(patch=16, width=768, depth=12, heads=12, hidden=3072),
        (3, 224, 224),
        1000,
    ),
}
STEPS = {"mlp-3x512": 200, "mlp-3x2048": 200, "resnet20-x1": 50}  # training steps, for `...:trained`
LIMIT = 900.0  # time limit of one measurement, in seconds
MAX_SWEEPS = 100
# At least three runs, up to 30 while they take less than 10 seconds in total; a single run if it takes longer.
MAX_REPEATS, MAX_SECONDS = 30, 10.0
METHODS = ("greedy", "best", "identity", "plain", "package")
STARTS: dict[str, Start] = {"greedy": "greedy", "best": "best", "identity": "identity"}


def networks(name: str) -> tuple[nn.Module, nn.Module, rc.PermutationSpec, tuple[int, ...]]:
    """Return two networks from different seeds; those named ``...:trained`` are trained on scikit-learn's digits."""
    case, _, kind = name.partition(":")
    architecture, shape, outputs = CASES[case]()
    if kind == "trained":
        data = rc.build("dataset", name="digits").load()
        shape = data.input_shape
    models = [architecture.build(shape, outputs, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    if kind == "trained":
        for seed, model in enumerate(models):
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            generator = torch.Generator().manual_seed(seed)
            for _ in range(STEPS[case]):
                rows = torch.randint(len(data.train.targets), (128,), generator=generator)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(data.train.inputs[rows]), data.train.targets[rows])
                loss.backward()
                optimizer.step()
    return models[0].eval(), models[1].eval(), architecture.spec(models[0]), shape


def plain_groups(layout: rc.Layout) -> rc.Layout:
    """Return the layout with only the groups that the published algorithm supports: those without nesting."""
    nested = {name for name, group in layout.groups.items() if group.within is not None}
    nested |= {group.within for group in layout.groups.values() if group.within is not None}

    def fixed(axis: rc.symmetry.Axis) -> rc.symmetry.Axis:
        return axis if isinstance(axis, rc.symmetry.Atom) and axis.group not in nested else rc.symmetry.Atom(axis.size)

    groups = {name: group for name, group in layout.groups.items() if name not in nested}
    return rc.Layout(groups, {name: tuple(fixed(axis) for axis in axes) for name, axes in layout.axes.items()})


def plain(layout: rc.Layout, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the permutations of Algorithm 1 of Git Re-Basin, with all similarity matrices recomputed."""
    names: dict[str, list[tuple[str, int]]] = {group: [] for group in layout.groups}
    axes = {name: [getattr(axis, "group", None) for axis in layout.axes[name]] for name in first}
    for name, groups in axes.items():
        for dim, group in enumerate(groups):
            if group is not None:
                names[group].append((name, dim))
    device = next(iter(first.values())).device
    index = {group: torch.arange(layout.groups[group].size, device=device) for group in names}
    generator = torch.Generator().manual_seed(0)
    for _ in range(MAX_SWEEPS):
        progress = False
        for number in torch.randperm(len(names), generator=generator).tolist():
            group = list(names)[number]
            gram = torch.zeros(len(index[group]), len(index[group]), device=device)
            for name, dim in names[group]:
                permuted = second[name]
                for other, neighbor in enumerate(axes[name]):
                    if other != dim and neighbor is not None:
                        permuted = permuted.index_select(other, index[neighbor])
                rows = (t.movedim(dim, 0).reshape(len(gram), -1) for t in (first[name], permuted))
                gram += next(rows) @ next(rows).T
            _, columns = linear_sum_assignment(gram.cpu().numpy(), maximize=True)
            best = torch.from_numpy(columns).to(device)
            old, new = (gram.gather(1, i.unsqueeze(1)).sum().item() for i in (index[group], best))
            progress = progress or new > old + 1e-12 + 1e-6 * abs(old)
            index[group] = best
        if not progress:
            break
    return index


def measured(method: str, case: str) -> dict[str, float]:
    """Return the time in seconds and the objective of one method on one case."""
    first, second, spec, shape = networks(case)
    layout = plain_groups(spec.layout)
    sides = [{n: p.detach() for n, p in model.named_parameters()} for model in (first, second)]
    posteriors = [rc.posteriors.PointPosterior.from_module(model) for model in (first, second)]
    if method == "package":
        return package(first, second, shape)
    best, found = math.inf, rc.Permutation.identity(layout)
    until = time.perf_counter() + MAX_SECONDS
    for number in range(MAX_REPEATS):
        start = time.perf_counter()
        if method == "plain":
            found = rc.Permutation(layout, plain(layout, *sides))
        else:
            matcher = rc.matchers.WeightMatcher(start=STARTS[method])
            found = matcher.match(posteriors[0], posteriors[1], GivenSpec(layout)).permutation
        best = min(best, time.perf_counter() - start)
        if best > MAX_SECONDS or (number >= 2 and time.perf_counter() > until):
            break
    aligned = found.apply(posteriors[1]).mean
    return {
        "seconds": best,
        "objective": sum((t.double() * aligned[n].double()).sum().item() for n, t in sides[0].items()),
    }


def package(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the time and the objective of the package `rebasin`; the time to derive its groups is excluded."""
    from rebasin import PermutationCoordinateDescent  # ruff: ignore[import-outside-top-level] - not a dependency

    descent = PermutationCoordinateDescent(first, second, torch.randn(2, *shape))
    start = time.perf_counter()
    descent.calculate_permutations(MAX_SWEEPS)
    seconds = time.perf_counter() - start
    descent.apply_permutations()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return {"seconds": seconds, "objective": sum((a.double() * b.double()).sum().item() for a, b in pairs)}


def in_process(method: str, case: str, python: str | None) -> dict[str, float] | None:
    """Return a measurement in a new process; None without an interpreter, or if it fails or exceeds the time limit."""
    if python is None:
        return None
    command = [python, "-W", "ignore", __file__, case, "--method", method]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"{method} on {case}: {type(error).__name__} {str(error.stderr)[-300:]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table, or one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--peer", help="Python interpreter with the package `rebasin`")
    parser.add_argument("--method", choices=METHODS, help="print one measurement instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.method:
        print(json.dumps(measured(arguments.method, arguments.cases[0])))
        return
    rows: list[list[str | float]] = []
    ratios: list[float] = []
    for case in arguments.cases or [*CASES, *(f"{name}:trained" for name in STEPS)]:
        found = [in_process(m, case, arguments.peer if m == "package" else sys.executable) for m in METHODS]
        seconds, objectives = ([math.nan if r is None else r[key] for r in found] for key in ("seconds", "objective"))
        ratios.append(min(s for s in seconds[3:] if not math.isnan(s)) / seconds[0])
        rows.append([case, *seconds, ratios[-1], *objectives])
        print(rows[-1], file=sys.stderr, flush=True)
    labels = ["greedy", "best", "identity", "plain", "rebasin"]
    headers = [
        "network",
        *(f"{label} (s)" for label in labels),
        "speed-up",
        *(f"{label} (objective)" for label in labels),
    ]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", *[".3f"] * 5, ".1f", *[".2f"] * 5)))
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\nSpeed-up over the faster of plain and rebasin (geometric mean): {mean:.1f}")


if __name__ == "__main__":
    main()
