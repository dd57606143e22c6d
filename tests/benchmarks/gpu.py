"""Measure evaluation, assignment, matching and layers of Llama-7B's shape on a GPU, compared with the CPU.

    python -m tests.benchmarks.gpu [SECTION ...]      # evaluation, assignment, layers, matching; default: all

Times are wall-clock times after synchronization of the device. *Plain*, as in `matching.py`, computes similarity
matrices on the GPU and assignments by SciPy. *Plain* and rebasin_core on one thread of the CPU run first, all cases
simultaneously in separate processes; cases that exceed the time limit are omitted.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from tabulate import tabulate
from torch import nn

import rebasin_core as rc
from rebasin_core.evaluation import (
    EvaluationOptions,
    FunctionalModel,
    HeldTask,
    MethodName,
    PrecisionName,
    Sampling,
    held_batches,
    predict,
)
from rebasin_core.specs.files import GivenSpec
from tests.benchmarks.matching import CASES, STEPS, networks, plain, plain_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

T = TypeVar("T")

LONG = 1.0  # calls that take longer, in seconds, are not repeated
LIMIT = 45.0  # time limit in seconds of the measurements in other processes
GPU = torch.device("cuda")


def best(function: Callable[..., T], *arguments: object) -> tuple[float, T]:
    """Return the minimum time of three calls in seconds, after a first one, and the result; one call if it is long."""
    times: list[float] = []
    while True:
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = function(*arguments)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if times[0] > LONG or len(times) == 4:
            return min(times[1:] or times), result


def note(row: list[object]) -> list[object]:
    """Print a row immediately, so that an interrupted run has shown its results, and return it."""
    print(row, file=sys.stderr, flush=True)
    return row


def show(title: str, headers: list[str], rows: list[list[object]]) -> None:
    """Print a table."""
    print(f"\n{title}\n")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".4g"), flush=True)


@dataclass(frozen=True)
class Evaluated:
    """A network, with the numbers of posterior samples and of examples in its evaluation."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    examples: int
    samples: int


def evaluated() -> list[Evaluated]:
    """Return the networks that are evaluated."""
    residual = rc.architectures.CifarResNetArchitecture(depth=20, norm="frn")
    return [
        Evaluated(
            "784-3x512-10", rc.architectures.MLPArchitecture(hidden=[512] * 3).build((784,), 10), (784,), 10_000, 64
        ),
        Evaluated(
            "784-3x2048-10", rc.architectures.MLPArchitecture(hidden=[2048] * 3).build((784,), 10), (784,), 10_000, 64
        ),
        Evaluated("13-50-10", rc.architectures.MLPArchitecture(hidden=[50]).build((13,), 10), (13,), 500, 1024),
        Evaluated("ResNet-20 (FRN)", residual.build((3, 32, 32), 10), (3, 32, 32), 2000, 16),
    ]


def evaluation() -> None:
    """Print the time to evaluate posterior samples, and the share of the peak throughput."""
    peaks: dict[PrecisionName, float] = {}
    precisions: dict[PrecisionName, torch.dtype] = {"full": torch.float32, "bfloat16": torch.bfloat16}
    for precision, dtype in precisions.items():
        sides = [torch.randn(8192, 8192, device=GPU, dtype=dtype) for _ in range(2)]
        peaks[precision] = 2 * 8192**3 / best(torch.matmul, *sides)[0]
    print(f"\nPeak: {peaks['full'] / 1e12:.0f} TFLOP/s in float32, {peaks['bfloat16'] / 1e12:.0f} in bfloat16")
    methods: tuple[MethodName, ...] = ("loop", "vectorized", "local")
    rows = [
        note(evaluated_by(case, EvaluationOptions(method=method, precision=precision), peaks[precision]))
        for case in evaluated()
        for method in methods
        for precision in precisions
    ]
    headers = [
        "network",
        "samples x examples",
        "method",
        "precision",
        "time per sample (ms)",
        "% of peak",
        "NLL (nats)",
        "memory (GiB)",
    ]
    show("Evaluation", headers, rows)


def evaluated_by(case: Evaluated, options: EvaluationOptions, peak: float) -> list[object]:
    """Return the row of a network for one method and precision."""
    mean = {name: tensor.detach().to(GPU) for name, tensor in case.model.named_parameters()}
    # Only the weights of matrices and convolutions are random, which `local` supports in a residual network.
    stddev = {name: torch.full_like(tensor, 0.01 * (tensor.dim() > 1)) for name, tensor in mean.items()}
    functional = FunctionalModel(case.model, device=GPU)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(case.examples, *case.shape, generator=generator)
    targets = torch.randint(10, (case.examples,), generator=generator)
    size = 1000 if len(case.shape) > 1 else case.examples
    held = held_batches(functional, zip(inputs.split(size), targets.split(size), strict=True))

    def run() -> float:
        found = predict(
            rc.posteriors.DiagonalGaussianPosterior(mean, stddev),
            HeldTask(functional, held, rc.evaluation.CategoricalLikelihood()),
            Sampling(case.samples, 0, options),
        )
        return -found.log_prob.exp().mean(0).log().mean().item()

    torch.cuda.reset_peak_memory_stats()
    seconds, loss = best(run)
    each = seconds / case.samples
    work = 2 * functional.size * case.examples if len(case.shape) == 1 else math.nan
    memory = torch.cuda.max_memory_allocated() / 2**30
    counts = f"{case.samples} x {case.examples}"
    return [case.name, counts, options.method, options.precision, 1e3 * each, 100 * work / each / peak, loss, memory]


def assignment() -> None:
    """Print run times of assignment solvers for matrices on the GPU."""
    rows: list[list[object]] = []
    generator = torch.Generator(GPU).manual_seed(0)
    for batch, n in ((32, 128), (1024, 64), (1, 512), (1, 2048), (1, 4096), (1, 11008)):
        a, b = (torch.randn(batch, n, min(3 * n, 8192), generator=generator, device=GPU) for _ in range(2))
        order = torch.randperm(n, generator=generator, device=GPU)
        for label, other in (("unrelated weights", b), ("permuted copy, noise 3", a[:, order] + 3 * b)):
            matrix = (a @ other.transpose(1, 2)).squeeze(0)
            found = [
                best(solver.solve, matrix)
                for solver in (rc.assignment.CompiledAssignment(), rc.assignment.AuctionAssignment())
            ]
            totals = [matrix.double().gather(-1, f.index.unsqueeze(-1)).sum().item() for _, f in found]
            times = [1e3 * seconds for seconds in (*(s for s, _ in found), best(matrix.cpu)[0])]
            rows.append(note([label, f"{batch} x {n}" if batch > 1 else n, *times, totals[1] / totals[0] - 1]))
    headers = ["matrix", "n", "compiled (ms)", "auction (ms)", "copy to the CPU (ms)", "rel. difference of totals"]
    show("Assignment solvers for matrices on the GPU", headers, rows)


def llama_layer(stream: str) -> dict[str, str]:
    """Return the axes of a decoder layer; rotary embeddings fix the order within queries and keys."""
    rows = {f"{name}_proj": f"heads*128, {stream}" for name in "qk"} | {"v_proj": f"heads*values@heads, {stream}"}
    rows |= {"o_proj": f"{stream}, heads*values@heads", "gate": f"hidden, {stream}", "up": f"hidden, {stream}"}
    return rows | {"down": f"{stream}, hidden", "norm1": stream, "norm2": stream}


def llama_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights of a decoder layer of Llama-7B's shape (width 4096, 11008 hidden units)."""
    shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (4096, 4096))
    shapes |= {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}
    weights = {name: torch.randn(shape, generator=generator, device=GPU) / 64 for name, shape in shapes.items()}
    return weights | {n: 1 + 0.1 * torch.randn(4096, generator=generator, device=GPU) for n in ("norm1", "norm2")}


def layers() -> None:
    """Print run times of matching layers of Llama-7B's shape."""
    generator = torch.Generator(GPU).manual_seed(0)
    first, second = (llama_weights(generator) for _ in range(2))
    rows: list[list[object]] = []
    for stream, label in (("-", "residual stream fixed"), ("stream", "residual stream matched")):
        spec = rc.table_spec(llama_layer(stream), first)
        planted = spec.random_permutation(generator=generator)
        noisy = {name: tensor + 0.5 * second[name] for name, tensor in planted.apply(first).items()}
        for pair, other in (("permuted copy, relative noise 0.5", noisy), ("unrelated", second)):
            torch.cuda.reset_peak_memory_stats()
            allocated = torch.cuda.memory_allocated()
            start = time.perf_counter()
            found = rc.matchers.WeightMatcher().match(
                rc.posteriors.PointPosterior(first), rc.posteriors.PointPosterior(other), spec
            )
            times = [time.perf_counter() - start, found.seconds["similarity"], found.seconds["assignment"]]
            memory = (torch.cuda.max_memory_allocated() - allocated) / 2**30
            recovered = found.permutation == planted.inverse() if other is noisy else ""
            rows.append(note([label, pair, *times, len(found.trace) - 1, memory, recovered]))
    headers = [
        "layer",
        "networks",
        "total (s)",
        "similarity (s)",
        "assignment (s)",
        "sweeps",
        "additional memory (GiB)",
        "recovered",
    ]
    show("A layer of Llama-7B's shape", headers, rows)


def objective(first: Mapping[str, Tensor], aligned: Mapping[str, Tensor]) -> float:
    """Return the inner product of two networks."""
    return sum((tensor.double() * aligned[name].double()).sum().item() for name, tensor in first.items())


def matched(case: str, device: str) -> tuple[float, float]:
    """Return the time in seconds and the objective of weight matching on a device."""
    first, second, spec, _ = networks(case)
    given = GivenSpec(plain_groups(spec.layout))
    posteriors = [rc.posteriors.PointPosterior.from_module(model).to(device=device) for model in (first, second)]
    seconds, found = best(rc.matchers.WeightMatcher().match, *posteriors, given)
    return seconds, objective(posteriors[0].mean, found.apply(posteriors[1]).mean)


def published(case: str) -> tuple[float, float]:
    """Return the time in seconds and the objective of Algorithm 1 as published, with products on the GPU."""
    first, second, spec, _ = networks(case)
    layout = plain_groups(spec.layout)
    sides = [{name: tensor.detach().to(GPU) for name, tensor in m.named_parameters()} for m in (first, second)]
    seconds, found = best(plain, layout, *sides)
    return seconds, objective(sides[0], rc.Permutation(layout, found).apply(sides[1]))


def compared(cases: list[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return times and objectives on the CPU and of *plain*, each case in its own process; NaN beyond the limit."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.gpu", "--one"]
    running = {
        (method, case): subprocess.Popen([*command, method, case], stdout=subprocess.PIPE, text=True)
        for method in ("cpu", "plain")
        for case in cases
    }
    until = time.monotonic() + LIMIT
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for key, process in running.items():
        try:
            output, _ = process.communicate(timeout=max(0.1, until - time.monotonic()))
            found[key] = json.loads(output.splitlines()[-1])
        except (subprocess.TimeoutExpired, IndexError):
            process.kill()
            found[key] = (math.nan, math.nan)
    return found


def matching() -> None:
    """Print run times of weight matching."""
    cases = [*CASES, *(f"{name}:trained" for name in STEPS)]
    others, rows = compared(cases), list[list[object]]()
    for case in cases:
        gpu, cpu, loop = matched(case, "cuda"), others["cpu", case], others["plain", case]
        ratios = [cpu[0] / gpu[0], loop[0] / gpu[0]]
        rows.append(note([case, cpu[0], gpu[0], loop[0], *ratios, cpu[1], gpu[1], loop[1]]))
    times, objectives = ["CPU (s)", "GPU (s)", "plain (s)"], ["objective: CPU", "GPU", "plain"]
    show("Weight matching", ["network", *times, "CPU / GPU", "plain / GPU", *objectives], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help="evaluation, assignment, layers, matching")
    parser.add_argument("--one", nargs=2, help="method (`cpu` or `plain`) and case of a single measurement")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        method, case = arguments.one
        print(json.dumps(matched(case, "cpu") if method == "cpu" else published(case)))
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    sections = {"evaluation": evaluation, "assignment": assignment, "layers": layers, "matching": matching}
    for name in arguments.sections or sections:
        sections[name]()


if __name__ == "__main__":
    main()
