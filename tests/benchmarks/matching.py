"""Weight matching: this library, algorithm 1 of Git Re-Basin written out, and the package `rebasin`, side by side.

    pip install rebasin            # in an environment of its own, if its versions of torch are not yours
    python tests/benchmarks/matching.py [CASE ...] [--peer PYTHON]

One thread, one process a measurement, the same two networks; seconds are wall-clock, the objective is the inner
product of the two networks after alignment. Ours starts greedily, the default; *identity* from there; *best* does both.
*Plain* is the published loop as its ports have it: from the identity, every group in random order, all products anew,
SciPy, until a sweep gains nothing; on the same groups. The package finds its own groups. ``--peer`` names the Python in
which it is installed (with scikit-learn); without it, that column is empty.
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
STEPS = {"mlp-3x512": 200, "mlp-3x2048": 200, "resnet20-x1": 50}  # of training, for `...:trained`
LIMIT = 900.0  # seconds for one measurement
MOST_SWEEPS = 100
MOST_REPEATS, ENOUGH = 30, 10.0  # the best of three, or of more if these take few seconds, or of one that takes many
METHODS = ("ours", "best", "identity", "plain", "package")
STARTS: dict[str, Start] = {"ours": "greedy", "best": "best", "identity": "identity"}


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
    """Return the layout with only those groups that the published loop knows: no groups within groups."""
    nested = {name for name, group in layout.groups.items() if group.within is not None}
    nested |= {group.within for group in layout.groups.values() if group.within is not None}

    def fixed(axis: rc.symmetry.Axis) -> rc.symmetry.Axis:
        return axis if isinstance(axis, rc.symmetry.Atom) and axis.group not in nested else rc.symmetry.Atom(axis.size)

    groups = {name: group for name, group in layout.groups.items() if name not in nested}
    return rc.Layout(groups, {name: tuple(fixed(axis) for axis in axes) for name, axes in layout.axes.items()})


def plain(layout: rc.Layout, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the permutations of algorithm 1 of Git Re-Basin, everything computed anew at every step."""
    names: dict[str, list[tuple[str, int]]] = {group: [] for group in layout.groups}
    axes = {name: [getattr(axis, "group", None) for axis in layout.axes[name]] for name in first}
    for name, groups in axes.items():
        for place, group in enumerate(groups):
            if group is not None:
                names[group].append((name, place))
    device = next(iter(first.values())).device
    index = {group: torch.arange(layout.groups[group].size, device=device) for group in names}
    generator = torch.Generator().manual_seed(0)
    for _ in range(MOST_SWEEPS):
        progress = False
        for number in torch.randperm(len(names), generator=generator).tolist():
            group = list(names)[number]
            gram = torch.zeros(len(index[group]), len(index[group]), device=device)
            for name, place in names[group]:
                moved = second[name]
                for other, there in enumerate(axes[name]):
                    if other != place and there is not None:
                        moved = moved.index_select(other, index[there])
                rows = (t.movedim(place, 0).reshape(len(gram), -1) for t in (first[name], moved))
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
    """Return seconds and objective of one method on one case."""
    first, second, spec, shape = networks(case)
    layout = plain_groups(spec.layout)
    sides = [{n: p.detach() for n, p in model.named_parameters()} for model in (first, second)]
    posteriors = [rc.posteriors.PointPosterior.from_module(model) for model in (first, second)]
    if method == "package":
        return package(first, second, shape)
    best, found = math.inf, rc.Permutation.identity(layout)
    until = time.perf_counter() + ENOUGH
    for number in range(MOST_REPEATS):
        start = time.perf_counter()
        if method == "plain":
            found = rc.Permutation(layout, plain(layout, *sides))
        else:
            matcher = rc.matchers.WeightMatcher(start=STARTS[method])
            found = matcher.match(posteriors[0], posteriors[1], GivenSpec(layout)).permutation
        best = min(best, time.perf_counter() - start)
        if best > ENOUGH or (number >= 2 and time.perf_counter() > until):
            break
    moved = found.apply(posteriors[1]).mean
    return {
        "seconds": best,
        "objective": sum((t.double() * moved[n].double()).sum().item() for n, t in sides[0].items()),
    }


def package(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return seconds and objective of the package `rebasin`; deriving its groups is not counted."""
    from rebasin import PermutationCoordinateDescent  # ruff: ignore[import-outside-top-level] - a peer, elsewhere

    descent = PermutationCoordinateDescent(first, second, torch.randn(2, *shape))
    start = time.perf_counter()
    descent.calculate_permutations(MOST_SWEEPS)
    seconds = time.perf_counter() - start
    descent.apply_permutations()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return {"seconds": seconds, "objective": sum((a.double() * b.double()).sum().item() for a, b in pairs)}


def in_process(method: str, case: str, python: str | None) -> dict[str, float] | None:
    """Return a measurement from a process of its own; None without its Python, or if it fails or takes too long."""
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
    parser.add_argument("--peer", help="the Python with the package `rebasin`")
    parser.add_argument("--method", choices=METHODS, help="print one measurement, and no table")
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
    labels = ["best", "identity", "plain", "rebasin"]
    headers = ["", "ours, s", *labels, "ratio", "ours, objective", *labels]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", *[".3f"] * 5, ".1f", *[".2f"] * 5)))
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\nGeometric mean of the ratios to the faster of the others: {mean:.1f}")


if __name__ == "__main__":
    main()
