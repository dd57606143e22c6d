"""What a GPU is worth: evaluation, assignments, layers of Llama's shape and matching, beside the CPU of its machine.

    python -m tests.benchmarks.gpu [SECTION ...]      # evaluation, assignment, layers, matching; all without a name

Seconds are wall-clock, the device waited for. *Plain*, as in `matching.py`, has its products on the GPU and its
assignments by SciPy. It and our own matching on one thread of the CPU run first, every case in a process of its own,
all at once; what takes too long is left out.
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

LONG = 1.0  # seconds; calls that take longer are not repeated
LIMIT = 45.0  # seconds for all that runs beside the GPU
GPU = torch.device("cuda")


def best(function: Callable[..., T], *arguments: object) -> tuple[float, T]:
    """Return a call's result, and the least seconds of three after a first one (or of the first, if it takes long)."""
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
    """Return a row, shown at once: a run that is broken off has told what it found."""
    print(row, file=sys.stderr, flush=True)
    return row


def show(title: str, headers: list[str], rows: list[list[object]]) -> None:
    """Print a table."""
    print(f"\n{title}\n")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".4g"), flush=True)


@dataclass(frozen=True)
class Evaluated:
    """A network that is evaluated: how many samples of it, on how many examples."""

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
    """Print what it costs to evaluate drawn networks, and the share of the peak."""
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
    headers = ["network", "samples x examples", "method", "precision", "ms a network", "% of the peak", "NLL", "GiB"]
    show("Evaluation", headers, rows)


def evaluated_by(case: Evaluated, options: EvaluationOptions, peak: float) -> list[object]:
    """Return the row of one way to evaluate a network."""
    mean = {name: tensor.detach().to(GPU) for name, tensor in case.model.named_parameters()}
    # Of a residual network the convolutions alone, which `local` knows.
    spread = {name: torch.full_like(tensor, 0.01 * (tensor.dim() > 1)) for name, tensor in mean.items()}
    functional = FunctionalModel(case.model, device=GPU)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(case.examples, *case.shape, generator=generator)
    targets = torch.randint(10, (case.examples,), generator=generator)
    size = 1000 if len(case.shape) > 1 else case.examples
    held = held_batches(functional, zip(inputs.split(size), targets.split(size), strict=True))

    def run() -> float:
        found = predict(
            rc.posteriors.DiagonalGaussianPosterior(mean, spread),
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
    """Print seconds of assignments whose matrices lie on the GPU."""
    rows: list[list[object]] = []
    generator = torch.Generator(GPU).manual_seed(0)
    for batch, n in ((32, 128), (1024, 64), (1, 512), (1, 2048), (1, 4096), (1, 11008)):
        a, b = (torch.randn(batch, n, min(3 * n, 8192), generator=generator, device=GPU) for _ in range(2))
        order = torch.randperm(n, generator=generator, device=GPU)
        for what, other in (("unrelated weights", b), ("moved copy, noise 3", a[:, order] + 3 * b)):
            matrix = (a @ other.transpose(1, 2)).squeeze(0)
            found = [
                best(solver.solve, matrix)
                for solver in (rc.assignment.CompiledAssignment(), rc.assignment.AuctionAssignment())
            ]
            totals = [matrix.double().gather(-1, f.index.unsqueeze(-1)).sum().item() for _, f in found]
            times = [1e3 * seconds for seconds in (*(s for s, _ in found), best(matrix.cpu)[0])]
            rows.append(note([what, f"{batch} x {n}" if batch > 1 else n, *times, totals[1] / totals[0] - 1]))
    headers = ["", "n", "compiled, ms", "auction", "copy to the CPU alone", "difference of totals"]
    show("Assignments of matrices on the GPU", headers, rows)


def llama_layer(stream: str) -> dict[str, str]:
    """Return the axes of a decoder layer: rotary positions fix the order within queries and keys, not within values."""
    rows = {f"{name}_proj": f"heads*128, {stream}" for name in "qk"} | {"v_proj": f"heads*values@heads, {stream}"}
    rows |= {"o_proj": f"{stream}, heads*values@heads", "gate": f"hidden, {stream}", "up": f"hidden, {stream}"}
    return rows | {"down": f"{stream}, hidden", "norm1": stream, "norm2": stream}


def llama_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights of a decoder layer of Llama-7B's shape: width 4096, 11008 hidden units."""
    shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (4096, 4096))
    shapes |= {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}
    weights = {name: torch.randn(shape, generator=generator, device=GPU) / 64 for name, shape in shapes.items()}
    return weights | {n: 1 + 0.1 * torch.randn(4096, generator=generator, device=GPU) for n in ("norm1", "norm2")}


def layers() -> None:
    """Print seconds of matching layers of Llama-7B's shape."""
    generator = torch.Generator(GPU).manual_seed(0)
    first, second = (llama_weights(generator) for _ in range(2))
    rows: list[list[object]] = []
    for stream, what in (("-", "stream in place"), ("stream", "stream matched too")):
        spec = rc.table_spec(llama_layer(stream), first)
        planted = spec.random_permutation(generator=generator)
        noisy = {name: tensor + 0.5 * second[name] for name, tensor in planted.apply(first).items()}
        for pair, other in (("moved copy, noise of half its size", noisy), ("unrelated", second)):
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            start = time.perf_counter()
            found = rc.matchers.WeightMatcher().match(
                rc.posteriors.PointPosterior(first), rc.posteriors.PointPosterior(other), spec
            )
            times = [time.perf_counter() - start, found.seconds["similarity"], found.seconds["assignment"]]
            memory = (torch.cuda.max_memory_allocated() - held) / 2**30
            right = found.permutation == planted.inverse() if other is noisy else ""
            rows.append(note([what, pair, *times, len(found.trace) - 1, memory, right]))
    headers = ["", "networks", "seconds", "similarity", "assignment", "sweeps", "GiB beside them", "found"]
    show("A layer of Llama-7B's shape", headers, rows)


def objective(first: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> float:
    """Return the inner product of two networks."""
    return sum((tensor.double() * moved[name].double()).sum().item() for name, tensor in first.items())


def matched(case: str, place: str) -> tuple[float, float]:
    """Return seconds and objective of weight matching on a device."""
    first, second, spec, _ = networks(case)
    given = GivenSpec(plain_groups(spec.layout))
    ends = [rc.posteriors.PointPosterior.from_module(model).to(device=place) for model in (first, second)]
    seconds, found = best(rc.matchers.WeightMatcher().match, *ends, given)
    return seconds, objective(ends[0].mean, found.apply(ends[1]).mean)


def published(case: str) -> tuple[float, float]:
    """Return the same of algorithm 1 as it is published, its products on the GPU."""
    first, second, spec, _ = networks(case)
    layout = plain_groups(spec.layout)
    sides = [{name: tensor.detach().to(GPU) for name, tensor in m.named_parameters()} for m in (first, second)]
    seconds, found = best(plain, layout, *sides)
    return seconds, objective(sides[0], rc.Permutation(layout, found).apply(sides[1]))


def beside(cases: list[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return what the CPU and the published algorithm take, each case in a process of its own; NaN for too long."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.gpu", "--one"]
    running = {
        (way, case): subprocess.Popen([*command, way, case], stdout=subprocess.PIPE, text=True)
        for way in ("cpu", "plain")
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
    """Print seconds of weight matching."""
    cases = [*CASES, *(f"{name}:trained" for name in STEPS)]
    others, rows = beside(cases), list[list[object]]()
    for case in cases:
        ours, cpu, loop = matched(case, "cuda"), others["cpu", case], others["plain", case]
        ratios = [cpu[0] / ours[0], loop[0] / ours[0]]
        rows.append(note([case, cpu[0], ours[0], loop[0], *ratios, cpu[1], ours[1], loop[1]]))
    headers = ["", "CPU, s", "GPU", "plain", "CPU / GPU", "plain / GPU", "objective, CPU", "GPU", "plain"]
    show("Weight matching", headers, rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help="evaluation, assignment, layers, matching")
    parser.add_argument("--one", nargs=2, help="`cpu` or `plain`, and a case: print one measurement")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        way, case = arguments.one
        print(json.dumps(matched(case, "cpu") if way == "cpu" else published(case)))
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    sections = {"evaluation": evaluation, "assignment": assignment, "layers": layers, "matching": matching}
    for name in arguments.sections or sections:
        sections[name]()


if __name__ == "__main__":
    main()
