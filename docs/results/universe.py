"""Compare joint alignment of ten networks with pairwise and sequential alignment.

    python docs/results/universe.py --root DATA [--networks 10] [--width 256]

Networks 784-w-w-w-10 are trained on MNIST from different seeds, aligned and averaged. *Pairwise*: every network is
matched with the first one. *Sequential*: each network is matched with the mean of the previous ones. *With the mean of
all*: after *pairwise*, all networks are matched with the mean of all, repeatedly while the mean squared distance to it
decreases; `match_many` uses the mean of the others. *Mean squared distance*: of the networks to their mean. *3-cycle
error*: the largest share of units that the composition of the maps 1 to 2, 2 to 3 and 3 to 1 permutes.
"""

from __future__ import annotations

import argparse
import time
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tabulate import tabulate

import rebasin_core as rc
from rebasin_core.posteriors.divergence import squared_moment_distance

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHT = rc.matchers.WeightMatcher(start="greedy")


def cycle_error(between: Callable[[int, int], rc.Permutation], units: int) -> float:
    """Return the largest share of units that a composition of three maps permutes, over the first five networks."""
    permuted = [
        sum(between(a, b).compose(between(b, c)).compose(between(c, a)).moved.values())
        for a, b, c in permutations(range(5), 3)
    ]
    return max(permuted) / units


def trained(root: Path, count: int, width: int) -> tuple[torch.nn.Module, rc.PermutationSpec, list[rc.Posterior], list]:
    """Return the model, its symmetries, the trained networks, and test data."""
    data = rc.build("dataset", name="mnist", root=root).load()
    architecture = rc.architectures.MLPArchitecture(hidden=[width] * 3)
    optimizer = rc.inference.OptimizerSpec(name="Adam", lr=1e-3, fused=True)
    method = rc.inference.MAPInference(
        epochs=5, optimizer=optimizer, schedule=rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=5)
    )
    networks: list[rc.Posterior] = []
    for seed in range(count):
        model = architecture.build(data.input_shape, 10, generator=torch.Generator().manual_seed(seed))
        train = data.train.batches(256, shuffle_seed=seed)
        networks.append(method.fit(model, train, generator=torch.Generator().manual_seed(seed)).posterior)
        print(f"network {seed} is trained", flush=True)
    return model, architecture.spec(model), networks, list(data.test.batches(1000))


def mean_squared_distance(members: list[rc.Posterior]) -> float:
    """Return the mean squared distance of networks from their mean."""
    center = rc.barycenter(members)
    return sum(squared_moment_distance(center, q) for q in members) / len(members)


def with_mean_of_all(members: list[rc.Posterior], spec: rc.PermutationSpec) -> list[rc.Posterior]:
    """Return the networks after repeated matching with their mean."""
    for _ in range(20):
        center = rc.barycenter(members)
        nearer = [rc.match(center, q, spec, WEIGHT).apply(q) for q in members]
        if mean_squared_distance(nearer) >= mean_squared_distance(members):
            break
        members = nearer
    return members


def main() -> None:  # ruff: ignore[too-many-locals] - a script
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, spec, networks, test = trained(arguments.root, arguments.networks, arguments.width)
    units = sum(group.size for group in spec.layout.groups.values())

    def row(label: str, members: list[rc.Posterior], seconds: float, error: float | None = None) -> list[str]:
        score = rc.score(rc.barycenter(members), rc.Task(model, test))
        cycle = "" if error is None else f"{100 * error:.1f} %"
        distance = f"{mean_squared_distance(members):.1f}"
        return [label, f"{100 * score.values['accuracy']:.2f} %", f"{score.nll:.4f}", distance, f"{seconds:.1f}", cycle]

    singles = [rc.score(q, rc.Task(model, test)) for q in networks]
    accuracy = sum(score.values["accuracy"] for score in singles) / len(singles)
    loss = sum(score.nll for score in singles) / len(singles)
    rows = [["single networks, mean", f"{100 * accuracy:.2f} %", f"{loss:.4f}", "", "", ""]]
    rows.append(row("mean of all, unaligned", networks, 0.0))
    start = time.perf_counter()
    first = [networks[0], *(rc.match(networks[0], q, spec, WEIGHT).apply(q) for q in networks[1:])]
    seconds = time.perf_counter() - start
    maps = {(a, b): rc.match(networks[b], networks[a], spec, WEIGHT).permutation for a, b in permutations(range(5), 2)}
    rows.append(row("pairwise", first, seconds, cycle_error(lambda a, b: maps[a, b], units)))
    start, running = time.perf_counter(), [networks[0]]
    for q in networks[1:]:
        running.append(rc.match(rc.barycenter(running), q, spec, WEIGHT).apply(q))
    rows.append(row("sequential", running, time.perf_counter() - start))
    start = time.perf_counter()
    rows.append(row("with the mean of all", with_mean_of_all(first, spec), seconds + time.perf_counter() - start))
    for name, matcher in {"weight": WEIGHT, "frank_wolfe": "frank_wolfe"}.items():
        start = time.perf_counter()
        many = rc.match_many(networks, spec, matcher=matcher)
        seconds = time.perf_counter() - start
        label = f"`match_many`, {name}, {len(many.trace) - 1} rounds"
        rows.append(row(label, list(many.posteriors), seconds, cycle_error(many.between, units)))
    headers = ["method", "accuracy", "NLL (nats)", "mean squared distance", "time (s)", "3-cycle error"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
