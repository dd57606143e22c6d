"""Run time of sampling and permuting posteriors, and of training an ensemble in one batch or sequentially.

    python tests/benchmarks/posteriors.py

All measurements run in one process with one thread; times are the minimum of several repetitions.
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
    """Return the minimum run time of a call, in seconds."""
    function()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def throughput() -> None:
    """Print run times for a network of 14 million parameters, absolute and relative to copies."""
    architecture = rc.architectures.MLPArchitecture(hidden=[2048, 2048, 2048, 2048])
    model = architecture.build((784,), 10)
    mean = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    generator = torch.Generator().manual_seed(0)
    stddev = {name: torch.rand(t.shape, generator=generator) for name, t in mean.items()}
    factor = {name: torch.randn((4, *t.shape), generator=generator) for name, t in mean.items()}
    element = architecture.spec(model).random_permutation(generator=generator)
    copy = best(lambda: {name: tensor.clone() for name, tensor in mean.items()})

    def row(operation: str, function: Callable[[], object], copies: int) -> list[object]:
        seconds = best(function)
        return [operation, seconds, seconds / copy, seconds / copy / copies]

    rows: list[list[object]] = [["copy of the parameters", copy, 1.0, 1.0]]
    # Numbers of copies of the parameters that sampling and permuting read.
    posteriors: list[tuple[str, rc.Posterior, int, int]] = [
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
    for name, posterior, read, copies in posteriors:
        rows += [
            row(f"{name}: from_noise", partial(posterior.from_noise, posterior.draw_noise(generator=generator)), read),
            row(f"{name}: permute", partial(posterior.permute, element), copies),
        ]
    noise = best(lambda: posteriors[1][1].draw_noise(generator=generator), 3)
    rows.append(["diagonal Gaussian: sample the noise", noise, noise / copy, noise / copy])
    headers = ["operation", "time (s)", "time / copy of the parameters", "time / copy of the tensors read"]
    print(tabulate(rows, headers, floatfmt=("", ".4f", ".2f", ".2f"), tablefmt="github"))


def ensembles() -> None:
    """Print training times of eight networks: in one batch, in one loop, and in eight runs."""
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

        batched = seconds(rc.inference.DeepEnsemble(members=8, epochs=2))
        one_loop = seconds(rc.inference.DeepEnsemble(members=8, epochs=2, together=False))
        separate = seconds(*[rc.inference.MAPInference(epochs=2) for _ in range(8)])
        rows.append(["-".join(map(str, hidden)), batch, batched, one_loop, separate, separate / batched])
    headers = ["hidden units", "batch size", "one batch (s)", "one loop (s)", "separate runs (s)", "speed-up"]
    print(tabulate(rows, headers, floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    throughput()
    print()
    ensembles()
