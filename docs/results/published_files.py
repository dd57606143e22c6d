"""Run `rebasin diff` and `rebasin align` on all published pairs, from .npz and from .pt files.

    python docs/results/published_files.py --checkpoints FOLDER --data DATA --midpoints mnist_mlp s5_mlp > files.jsonl

The .pt files are state dicts written by `torch.save` to a temporary folder. Every command is a process of its own,
limited to one thread. Each line has, for one pair, the report of the command, and the wall and CPU seconds of every
command, start of the program included. ``problems`` lists all of these that do not hold:

- both commands report the same values, from both kinds of files;
- verdict and distances are those that `verdicts.py` computes in Python;
- the tensors of the written file are those of the candidate that is aligned in Python, bit for bit.

For the families of ``--midpoints``, ``before`` and ``after`` are the measures of `verdicts.midpoints` for the average
of the reference with the candidate and with the written file. The exit code is 1 if there are problems.
"""

from __future__ import annotations

import json
import math
import os
import subprocess  # ruff: ignore[suspicious-subprocess-import] - runs this package on given files
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import published
import torch
from families import FAMILIES, Data, parser, specification
from torch import Tensor
from verdicts import Case, aligned, midpoints, point, record, tensors_of

import rebasin_core as rc

TOLERANCE = 1e-6  # of distances and cosines: the last digit of a sum depends on the alignment of memory
WORDS = {"equal": "equal", "already_aligned": "already aligned", "partly_aligned": "partly aligned"} | {
    "related": "related",
    "independent": "better than chance",
    "chance": "no better than chance",
}


@dataclass(frozen=True)
class Run:
    """One run of a command: its report, and its wall and CPU seconds."""

    report: dict[str, Any]
    wall: float
    cpu: float


def run(command: str, name: str, files: tuple[Path, Path], *options: str) -> Run:
    """Run a command on two files.

    Raises:
        RuntimeError: If it fails.
    """
    family = FAMILIES[name]
    shape = ",".join(map(str, (4, *family.shape))) + ("" if family.below is None else f":int<{family.below}")
    model = ["--model", f"published:{name}", "--input", shape]
    arguments = [sys.executable, "-m", "rebasin_core", command, *map(str, files), *model, "--json", *options]
    start, before = time.perf_counter(), os.times()
    ended = subprocess.run(  # ruff: ignore[subprocess-without-shell-equals-true] - fixed program, paths as arguments
        arguments,
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, os.times()
    if ended.returncode:
        message = f"{' '.join(arguments)}: exit code {ended.returncode}: {ended.stderr}"
        raise RuntimeError(message)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(json.loads(ended.stdout), wall, cpu)


def saved(data: Data, file: str, folder: Path) -> Path:
    """Write the tensors of a file by `torch.save`."""
    path = folder / f"{file}.pt"
    if not path.exists():
        torch.save(data.read(file), path)
    return path


def differences(first: object, second: object, where: str = "") -> list[str]:
    """Return where two JSON values differ by more than rounding, except for the paths of files."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        keys = [key for key in first if key not in {"reference", "candidate", "files"}]
        return [found for key in keys for found in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, float) and isinstance(second, float) and math.isclose(first, second, abs_tol=TOLERANCE):
        return []
    return [] if first == second else [f"{where}: {first} and {second}"]


def from_python(report: dict[str, Any], line: dict[str, Any]) -> list[str]:
    """Return where the report of a command differs from a line of `verdicts.py`."""
    found = [] if WORDS.get(report["relation"]) == line["verdict"] else [f"{report['relation']}: {line['verdict']}"]
    values = {f"distance_{when}": report["permuted"][f"distance_{when}"] for when in ("before", "after")}
    for key, value in values.items():
        if not math.isclose(value, line[key], abs_tol=TOLERANCE):
            found.append(f"{key}: {value}, in Python {line[key]}")
    return found


def unequal(written: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not equal."""
    common = written.keys() & expected.keys()
    return [f"written: {name}" for name in sorted(common) if not torch.equal(written[name], expected[name])]


def measured(name: str, pair: tuple[str, str], data: Data, output: Path) -> dict[str, object]:
    """Return the measures at the midpoint with the candidate and with a written file."""
    reference, candidate = [tensors_of(name, file, data) for file in pair]
    written = rc.open_checkpoint(output).tensors
    permuted = {key: written.get(key, tensor) for key, tensor in candidate.items()}
    return {
        "before": midpoints(name, reference, candidate, data),
        "after": midpoints(name, reference, permuted, data),
    }


def compared(
    name: str, pair: tuple[str, str], spec: rc.PermutationSpec, data: Data, folder: Path, *, evaluate: bool
) -> dict[str, object]:
    """Run the commands on one pair, and compare them with each other and with Python."""
    first, second = pair
    files = {
        "npz": (data.checkpoints / f"{first}.npz", data.checkpoints / f"{second}.npz"),
        "pt": (saved(data, first, folder), saved(data, second, folder)),
    }
    runs: dict[str, Run] = {}
    written: dict[str, dict[str, Tensor]] = {}
    for kind, paths in files.items():
        runs[f"diff {kind}"] = run("diff", name, paths)
        output = folder / f"{kind}.safetensors"
        runs[f"align {kind}"] = run("align", name, paths, "--output", str(output), "--force")
        written[kind] = dict(rc.open_checkpoint(output).tensors)
    report = runs["diff npz"].report
    problems = [f"{key}{text}" for key, other in runs.items() for text in differences(report, other.report)]
    case = Case("published", pair, tensors_of(name, first, data), tensors_of(name, second, data))
    problems += from_python(report, dict(record(name, case, spec, data, evaluate=False)))
    parameters = {key for key, _ in getattr(published, name)().named_parameters()}
    candidate = point(case.candidate, parameters)
    permuted = aligned(point(case.reference, parameters), candidate, spec).result.apply(candidate)
    for tensors in written.values():
        problems += unequal(tensors, {**permuted.mean, **permuted.buffers})
    problems += unequal(written["npz"], written["pt"])
    line: dict[str, object] = {"family": name, "pair": pair, "problems": problems}
    line |= {key: report[key] for key in ("relation", "excess_before", "excess_after", "permuted", "function")}
    line["seconds"] = {key: [round(own.wall, 2), round(own.cpu, 2)] for key, own in runs.items()}
    return line | (measured(name, pair, data, folder / "pt.safetensors") if evaluate else {})


def main() -> int:
    """Print one line per pair; return the exit code."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--midpoints", nargs="*", choices=list(FAMILIES), default=[], metavar="NAME")
    arguments = options.parse_args()
    data = Data(arguments.checkpoints.absolute(), arguments.data, arguments.limit)
    torch.set_num_threads(1)
    failed = False
    for name in arguments.families:
        spec = specification(name)
        for pair in FAMILIES[name].pairs:
            with tempfile.TemporaryDirectory() as folder:
                line = compared(name, pair, spec, data, Path(folder), evaluate=name in arguments.midpoints)
            failed |= bool(line["problems"])
            print(json.dumps(line), flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
