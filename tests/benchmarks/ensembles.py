"""Seconds of training deep ensembles, compared with a loop over separate networks, by width and number of members.

    python tests/benchmarks/ensembles.py [--widths 64 256 512] [--members 2 4 8 16] [--steps 30]

All run on one thread, interleaved: an epoch of `DeepEnsemble` in one batch (``together=True``), one network after
another (``together=False``) and as it chooses by itself, and plain loops that train the same networks with Adam one
by one. Prints the seconds of one member, and the ratio of the plain loops to each: above 1, the ensemble is faster.
"""

from __future__ import annotations

import argparse
from functools import partial
from time import process_time
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from rebasin_core.inference import DeepEnsemble, OptimizerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS, CLASSES, BATCH = 784, 10, 128


def network(width: int) -> nn.Sequential:
    """Return an MLP with three hidden layers."""
    layers = [nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, CLASSES))


def plain(width: int, members: int, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Train separate networks in a loop."""
    for _ in range(members):
        model = network(width)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for inputs, targets in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


def ensemble(
    width: int, members: int, batches: list[tuple[torch.Tensor, torch.Tensor]], *, together: bool | None
) -> None:
    """Train the networks as an ensemble."""
    method = DeepEnsemble(members=members, epochs=1, optimizer=OptimizerSpec(name="Adam", lr=1e-3), together=together)
    method.fit(network(width), batches, generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(BATCH, INPUTS, generator=generator), torch.randint(CLASSES, (BATCH,), generator=generator))
        for _ in range(options.steps)
    ]
    for width in options.widths:
        for members in options.members:
            runs: dict[str, Callable[[], None]] = {
                "loop": partial(plain, width, members, batches),
                "batch": partial(ensemble, width, members, batches, together=True),
                "sequence": partial(ensemble, width, members, batches, together=False),
                "chosen": partial(ensemble, width, members, batches, together=None),
            }
            seconds: dict[str, float] = dict.fromkeys(runs, float("inf"))
            for _ in range(options.repetitions):
                for name, run in runs.items():
                    start = process_time()
                    run()
                    seconds[name] = min(seconds[name], process_time() - start)
            ratios = {name: seconds["loop"] / value for name, value in seconds.items() if name != "loop"}
            shown = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
            print(
                f"width {width}, K = {members}: {seconds['loop'] / members:.3f} s a member; ratio {shown}", flush=True
            )


if __name__ == "__main__":
    main()
