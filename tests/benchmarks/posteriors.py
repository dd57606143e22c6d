"""What posteriors cost: sampling and permuting beside a plain copy, and an ensemble trained at once or one by one.

    python tests/benchmarks/posteriors.py

All in one process and one thread, side by side, the best of several repetitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from tabulate import tabulate

import rebasin_core as rc
from rebasin_core.tensors.modules import named_tensors

REPEATS = 7


def best(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least seconds of a call."""
    function()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def throughput() -> None:
    """Print seconds and ratios for a network of 17 million parameters."""
    architecture = rc.architectures.MLPArchitecture(hidden=[2048, 2048, 2048, 2048])
    model = architecture.build((784,), 10)
    mean = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    generator = torch.Generator().manual_seed(0)
    stddev = {name: torch.rand(t.shape, generator=generator) for name, t in mean.items()}
    factor = {name: torch.randn((4, *t.shape), generator=generator) for name, t in mean.items()}
    element = architecture.spec(model).random_permutation(generator=generator)
    copy = best(lambda: {name: tensor.clone() for name, tensor in mean.items()})

    def row(what: str, function: Callable[[], object], copies: int) -> list[object]:
        seconds = best(function)
        return [what, seconds, seconds / copy, seconds / copy / copies]

    rows: list[list[object]] = [["copy of the parameters", copy, 1.0, 1.0]]
    # Beside each: how many copies of the network sampling reads, and how many the posterior consists of.
    kinds: list[tuple[str, rc.Posterior, int, int]] = [
        ("point", rc.posteriors.PointPosterior(mean), 1, 1),
        ("diagonal Gaussian", rc.posteriors.DiagonalGaussianPosterior(mean, stddev), 2, 2),
        ("low rank (4) plus diagonal", rc.posteriors.LowRankGaussianPosterior(mean, stddev, factor), 6, 6),
        (
            "16 samples",
            rc.posteriors.SamplesPosterior({n: t.expand(16, *t.shape).contiguous() for n, t in mean.items()}),
            1,
            16,
        ),
    ]
    for name, posterior, read, copies in kinds:
        rows += [
            row(f"{name}: from_noise", partial(posterior.from_noise, posterior.draw_noise(generator=generator)), read),
            row(f"{name}: permute", partial(posterior.permute, element), copies),
        ]
    drawn = best(lambda: kinds[1][1].draw_noise(generator=generator), 3)
    rows.append(["diagonal Gaussian: drawing the noise", drawn, drawn / copy, drawn / copy])
    headers = ["what", "seconds", "copies of the network", "per copy of its own state"]
    print(tabulate(rows, headers, floatfmt=("", ".4f", ".2f", ".2f"), tablefmt="github"))


def ensembles() -> None:
    """Print seconds for eight networks trained at once, side by side, and as eight runs."""
    generator = torch.Generator().manual_seed(0)
    rows: list[list[object]] = []
    for hidden, batch in (((50,), 32), ((64, 64), 32), ((128, 128), 128)):
        inputs = torch.randn(40 * batch, 64, generator=generator)
        targets = torch.randint(10, (40 * batch,), generator=generator)
        data = rc.data.Examples(inputs, targets).batches(batch)
        model = rc.architectures.MLPArchitecture(hidden=hidden).build((64,), 10)

        def seconds(
            *methods: rc.Inference, model: torch.nn.Module = model, data: rc.data.TensorBatches = data
        ) -> float:
            return best(lambda: [method.fit(model, data) for method in methods], 2)

        at_once = seconds(rc.inference.DeepEnsemble(members=8, epochs=2))
        side = seconds(rc.inference.DeepEnsemble(members=8, epochs=2, together=False))
        alone = seconds(*[rc.inference.MAPInference(epochs=2) for _ in range(8)])
        rows.append(["-".join(map(str, hidden)), batch, at_once, side, alone, alone / at_once])
    headers = ["hidden", "batch", "at once (s)", "side by side (s)", "one after the other (s)", "ratio"]
    print(tabulate(rows, headers, floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    throughput()
    print()
    ensembles()
