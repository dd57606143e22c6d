"""Compare the time and the Monte Carlo error of methods that evaluate posterior samples.

    python tests/benchmarks/evaluation.py [--posteriors FIRST SECOND --root DATA]

All methods run in one process on one thread. With two trained mean-field posteriors of MNIST (784-512-512-512-10), the
Monte Carlo errors are those at the midpoint of the path between them; without, those of a random network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

import rebasin_core as rc
from rebasin_core.evaluation import (
    EvaluationOptions,
    Evaluator,
    FunctionalModel,
    HeldTask,
    LossEstimate,
    MethodName,
    Sampling,
    held_batches,
    predict,
)

METHODS: tuple[MethodName, ...] = ("loop", "vectorized", "local")
LIKELIHOOD = rc.evaluation.CategoricalLikelihood()


def best(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the minimum time of a call, in seconds."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak(rows: int = 1000, width: int = 512) -> float:
    """Return the floating-point operations per second of a matrix product of the networks' size."""
    a, b = torch.randn(rows, width), torch.randn(width, width)
    return 2 * rows * width * width / best(lambda: a @ b, 30)


def random_problem(hidden: list[int], inputs: int, rows: int) -> tuple[nn.Module, rc.Posterior, list[Any]]:
    """Return a network, a posterior around it, and data."""
    generator = torch.Generator().manual_seed(0)
    model = rc.architectures.MLPArchitecture(hidden=hidden).build((inputs,), 10, generator=generator)
    mean = {name: parameter.detach() for name, parameter in model.named_parameters()}
    posterior = rc.posteriors.DiagonalGaussianPosterior(
        mean, {name: torch.full_like(t, 0.03) for name, t in mean.items()}
    )
    x, y = torch.randn(rows, inputs, generator=generator), torch.randint(10, (rows,), generator=generator)
    return model, posterior, list(zip(x.split(1000), y.split(1000), strict=True))


def large(arguments: argparse.Namespace) -> None:  # ruff: ignore[too-many-locals] - a script
    """Print times, shares of the peak throughput and Monte Carlo errors for the network of the MNIST results."""
    if arguments.posteriors:
        first, second = (rc.load_posterior(path) for path in arguments.posteriors)
        data = rc.build("dataset", "mnist", root=arguments.root).load()
        model: nn.Module = rc.architectures.MLPArchitecture(hidden=[512] * 3).build(data.input_shape, 10)
        spec = rc.architectures.MLPArchitecture(hidden=[512] * 3).spec(model)
        aligned = rc.match(first, second, spec, "wasserstein").apply(second)
        assert isinstance(first, rc.posteriors.DiagonalGaussianPosterior)
        posterior = rc.posteriors.geodesic(first, aligned)(0.5)
        batches = list(data.test.batches(1000))
    else:
        model, posterior, batches = random_problem([512] * 3, 784, 10_000)
    weights = sum(t.numel() for n, t in posterior.mean.items() if n.endswith("weight"))
    work = 2 * weights * sum(len(y) for _, y in batches)
    rows: list[list[object]] = []
    loop_seconds = loop_error = 0.0
    # Name, samples, seeds, options. Two seeds where the samples, and thus the Monte Carlo error, are those of the loop.
    methods: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
        ("loop", 4, 12, {"method": "loop"}),
        ("loop, antithetic", 4, 12, {"method": "loop", "antithetic": True}),
        ("local", 4, 12, {"method": "local", "antithetic": False}),
        ("local, antithetic", 4, 12, {"method": "local"}),
        ("local, adaptive", 8, 12, {"method": "local", "allocation": "adaptive"}),
        ("local, adaptive", 32, 12, {"method": "local", "allocation": "adaptive"}),
        ("vectorized, chunks of 4", 4, 2, {"method": "vectorized", "chunk_size": 4}),
        ("loop, bfloat16", 4, 2, {"method": "loop", "precision": "bfloat16"}),
    )
    for name, samples, seeds, options in methods:

        def run(seed: int = 0, samples: int = samples, options: dict[str, Any] = options) -> LossEstimate:
            chosen = EvaluationOptions(**options)
            evaluator = Evaluator(rc.Task(model, batches), posterior, num_samples=samples, seed=seed, options=chosen)
            return evaluator.loss(posterior)

        flops = peak()
        seconds = best(run, 2) / samples
        losses = torch.tensor([run(seed).loss for seed in range(seeds)], dtype=torch.float64)
        # Scaled to one sample: the variance of a mean is inversely proportional to their number.
        error = losses.std().item() * samples**0.5 if seeds > 2 else loop_error
        if name == "loop":
            loop_seconds, loop_error = seconds, error
        efficiency = (loop_seconds * loop_error**2) / (seconds * error**2)
        share = work / seconds / flops
        stddev = error / samples**0.5
        rows.append([name, samples, 1e3 * seconds, 100 * share, losses.mean().item(), stddev, efficiency])
        print(rows[-1], flush=True)
    headers = [
        "method",
        "samples",
        "time per sample (ms)",
        "% of peak",
        "NLL (nats)",
        "std. dev. over seeds",
        "efficiency",
    ]
    print(tabulate(rows, headers, floatfmt=("", "", ".0f", ".0f", ".5f", ".6f", ".1f"), tablefmt="github"))


def small() -> None:
    """Print times for small networks, evaluated sequentially and in batches."""
    rows: list[list[object]] = []
    for hidden, inputs, batch in (([50], 13, 500), ([32, 32], 64, 100), ([16], 8, 1000), ([64, 64], 64, 200)):
        model, posterior, data = random_problem(hidden, inputs, batch)
        functional = FunctionalModel(model)
        held = held_batches(functional, data)

        def run(
            method: MethodName,
            posterior: rc.Posterior = posterior,
            model: FunctionalModel = functional,
            held: Any = held,
        ) -> None:
            options = EvaluationOptions(method=method)
            predict(posterior, HeldTask(model, held, LIKELIHOOD), Sampling(256, 0, options))

        seconds = {method: best(partial(run, method)) for method in METHODS}
        ratios = [seconds["loop"] / seconds[method] for method in METHODS[1:]]
        rows.append(["-".join(map(str, [inputs, *hidden, 10])), batch, *(1e3 * s for s in seconds.values()), *ratios])
    headers = ["network", "rows", "loop (ms)", "vectorized (ms)", "local (ms)", "loop / vectorized", "loop / local"]
    print(tabulate(rows, headers, floatfmt=("", "", ".0f", ".0f", ".0f", ".1f", ".1f"), tablefmt="github"))


def compiled() -> None:
    """Print times for a residual network, without and with ``torch.compile``."""
    rows: list[list[object]] = []
    data = [(torch.randn(128, 3, 32, 32), torch.randint(10, (128,))) for _ in range(2)]
    for norm in ("frn", "batch"):
        model = rc.architectures.CifarResNetArchitecture(norm=norm).build((3, 32, 32), 10)
        point = rc.posteriors.PointPosterior.from_module(model)
        seconds: list[float] = []
        for chosen in (False, True):
            evaluator = Evaluator(
                rc.Task(model, data), point, options=EvaluationOptions(method="loop", compiled=chosen)
            )
            seconds.append(best(partial(evaluator.loss, point), 4) / 2)
        rows.append([f"ResNet-20, {norm}, evaluation", *(1e3 * s for s in seconds), seconds[0] / seconds[1]])
        seconds = [time_of_step(model, data, compiled=chosen) for chosen in (False, True)]
        rows.append([f"ResNet-20, {norm}, training step", *(1e3 * s for s in seconds), seconds[0] / seconds[1]])
    headers = ["network", "eager (ms)", "compiled (ms)", "speed-up"]
    print(tabulate(rows, headers, floatfmt=("", ".0f", ".0f", ".1f"), tablefmt="github"))


def time_of_step(model: nn.Module, data: list[Any], *, compiled: bool) -> float:
    """Return the minimum time of a training step, in seconds."""
    times: list[float] = []

    class Timed:
        def __iter__(self) -> Iterator[Any]:
            for batch in data:
                times.append(time.perf_counter())
                yield batch

    rc.inference.MAPInference(epochs=4).fit(model, Timed(), compiled=compiled)
    return min(later - earlier for earlier, later in pairwise(times[2:]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posteriors", nargs=2, type=Path)
    parser.add_argument("--root", type=Path, default=Path("data"))
    large(parser.parse_args())
    print("\n256 samples of small networks:\n")
    small()
    print("\ntorch.compile, 128 images:\n")
    compiled()


if __name__ == "__main__":
    torch.set_num_threads(1)  # more threads give less reproducible times on a busy machine
    main()
