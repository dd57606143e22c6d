"""Damage checkpoint files of every format, and print the errors that are not errors of this package.

Run it with ``python -m tests.benchmarks.hostile_checkpoints [number of mutations of each example] [seed]``. It reports
the largest memory that one file needed, in addition to the size of the process, and fails if a file is changed, code is
executed, memory exceeds 256 MiB or an error is not one line of this package.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.hostile.checkpoints import EXECUTED, formats, hostile_contents, mutated_copy, outcome

MAX_BYTES = 256 * 2**20


def memory(field: str) -> int:
    """Return an entry of the status of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def contents(path: Path) -> dict[str, bytes]:
    """Return the contents of a file, or of the files in a folder, by name."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


class Report:
    """Outcomes, unexpected errors and the largest memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.total = 0
        self.unexpected = 0
        self.largest = 0

    def add(self, label: str, cases: dict[str, Callable[[Path], Path]], base: Path | None = None) -> None:
        """Test files, each written by a function of its path."""
        found: Counter[str] = Counter()
        start = time.perf_counter()
        for name, write in cases.items():
            target = self.folder / "case"
            path = write(target)
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
            before = memory("VmRSS")
            try:
                kind = self._checked(path, base)
            except Exception as error:  # ruff: ignore[blind-except] - any other error is a fault of the package
                frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
                print(f"    {label}, {name}: {type(error).__name__}: {str(error)[:200]} {frames}", flush=True)
                kind = "UNEXPECTED"
            peak = memory("VmHWM") - before
            if peak > MAX_BYTES:
                print(f"    {label}, {name}: {peak / 2**20:.0f} MiB")
                kind = "UNEXPECTED"
            found[kind] += 1
            self.largest = max(self.largest, peak)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.total += len(cases)
        self.unexpected += found["UNEXPECTED"]
        seconds = time.perf_counter() - start
        print(f"{label:<38}{len(cases):>6} {seconds:6.1f} s  {dict(found.most_common())}", flush=True)

    def _checked(self, path: Path, base: Path | None) -> str:
        given = contents(path)
        kind = outcome(path, base)
        if contents(path) != given or [file.name for file in self.folder.iterdir() if file.name == EXECUTED]:
            message = "a file was changed, or code was executed"
            raise AssertionError(message)
        return kind


def main(count: int = 300, first: int = 0) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work, valid = Path(name, "work"), Path(name, "valid")
        work.mkdir()
        valid.mkdir()
        report = Report(work)
        paths = formats(valid)
        for label, path in paths.items():
            cases = {f"seed {seed}": _mutation(path, seed) for seed in range(first, first + count)}
            is_adapter = label == "adapter"
            report.add(label, cases, paths["SafetensorsReader model.safetensors"] if is_adapter else None)
        hostile = {f"case {number}": _writing(each) for number, each in enumerate(hostile_contents(work))}
        report.add("hostile pickles and headers", hostile)
        print(
            f"{report.unexpected} unexpected in {report.total} files; at most {report.largest / 2**20:.0f} MiB for one"
        )
    sys.exit(report.unexpected > 0)


def _mutation(path: Path, seed: int) -> Callable[[Path], Path]:
    return lambda target: mutated_copy(path, target, random.Random(seed))


def _writing(content: bytes) -> Callable[[Path], Path]:
    def write(target: Path) -> Path:
        target.write_bytes(content)
        return target

    return write


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
