"""Time and memory of the operations on a store of many artifacts in a local folder.

Usage: python tests/benchmarks/store.py [NUMBER [FOLDER]]. Each operation runs in a new process. Files are not flushed
while the store is filled; the time of a flushed write is measured separately.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from unittest import mock

from rebasin_core.studies.store import Store, collect_garbage, disk_usage, list_artifacts, verify_store

KINDS = ("train", "match", "curve", "scores")


def fill(store: Store, folder: Path, first: int, number: int) -> None:
    """Write artifacts with a document of a curve's size and a small file of their own."""
    source = folder / "source.bin"
    for index in range(first, first + number):
        source.write_bytes(index.to_bytes(8) * 128)
        stage = {"kind": KINDS[index % len(KINDS)], "options": {"seed": index}, "reads": {"data": "a" * 64}}
        losses = {"loss": [index / (step + 1) for step in range(25)]}
        store.write(stage, {"curve": losses}, {"result.safetensors": source}, {"seconds": 1.5, "host": "node"})


def read_records(store: Store) -> None:
    store.read_many(store.ids())


def gc_dry_run(store: Store) -> None:
    collect_garbage(store, grace=-1, dry_run=True)


def gc(store: Store) -> None:
    collect_garbage(store, grace=-1)


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "ids": Store.ids,
    "read_many": read_records,
    "ls": list_artifacts,
    "du": disk_usage,
    "verify": verify_store,
    "gc --dry-run": gc_dry_run,
    "gc (removes half)": gc,
}


def peak() -> int:
    """Return the peak memory of this process in KiB, on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(name: str, address: str) -> None:
    store = Store.open(address)
    before = peak()
    start = perf_counter()
    OPERATIONS[name](store)
    seconds = perf_counter() - start
    print(f"{name:<20}{seconds:8.2f} s{(peak() - before) / 1024:8.0f} MiB", flush=True)


def main(number: int, folder: Path) -> None:
    store = Store.open(folder / "store")
    start = perf_counter()
    fill(store, folder, 0, 200)
    print(f"{'write, flushed':<20}{(perf_counter() - start) / 200 * 1e3:8.2f} ms each")
    with mock.patch.object(os, "fsync"):
        start = perf_counter()
        fill(store, folder, 200, number - 200)
        print(f"{'write, not flushed':<20}{(perf_counter() - start) / (number - 200) * 1e3:8.2f} ms each")
    store.write_root("study", sorted(store.ids())[::2])
    for name in OPERATIONS:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, store.address))
        process.start()
        process.join()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as temporary:
        main(count, Path(temporary))
