"""Processes that write to one store, read from it, and are killed; run as a script, which prints the damage.

Modes: ``together``: several writers of the same artifacts, all finish. ``killed``: writers are killed at random times.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rebasin_core.errors import FileFormatError, MissingArtifactError
from rebasin_core.studies.store import Store, collect_garbage, verify_store

STAGES = 24


def content(stage: int, name: int) -> bytes:
    """Return the content of a file; stages of equal parity share their first file."""
    return random.Random(stage % 2 if name == 0 else 100 * stage + name).randbytes(40_000 * name + 5000)


def write_one(store: Store, folder: Path, stage: int) -> None:
    files = {}
    for name in range(1 + stage % 3):
        path = folder / f"{name}.bin"
        path.write_bytes(content(stage, name))
        files[path.name] = path
    store.write({"kind": "train", "options": stage}, {"result": {"stage": stage}}, files, {"seconds": time.time()})


def read_all(store: Store) -> int:
    """Return the number of artifacts; raise if one is damaged or wrong."""
    identities = store.ids()
    for identity in identities:
        try:
            artifact = store.read(identity)
        except MissingArtifactError:
            continue
        stage = artifact.documents["result"]["stage"]
        if (artifact.stage["options"], len(artifact.files)) != (stage, 1 + stage % 3):
            message = f"wrong artifact {artifact}"
            raise ValueError(message)
        for name in artifact.files:
            if store.fetch(artifact, name).read_bytes() != content(stage, int(name.removesuffix(".bin"))):
                message = f"wrong file {name}"
                raise ValueError(message)
    return len(identities)


def child(address: str, seed: int, repeats: int) -> int:
    """Fork a process that writes artifacts in a random order and, now and then, collects garbage."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        chooser = random.Random(seed)
        store = Store.open(address)
        with tempfile.TemporaryDirectory() as folder:
            for repeat in range(repeats):
                write_one(store, Path(folder), chooser.randrange(STAGES))
                if repeat % 10 == 5:
                    store.write_root(f"study {seed}", store.ids())
                    collect_garbage(store, grace=3600)
        code = 0
    finally:
        os._exit(code)


def together(address: str) -> None:
    processes = [child(address, seed, 60) for seed in range(4)]
    store = Store.open(address)
    while processes:
        read_all(store)
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            processes.remove(done)
            if status:
                message = f"a writer failed with status {status}"
                raise RuntimeError(message)


def killed(address: str, kills: int) -> None:
    chooser = random.Random(kills)
    store = Store.open(address)
    for seed in range(kills):
        processes = [child(address, 2 * seed, 10**6), child(address, 2 * seed + 1, 10**6)]
        time.sleep(chooser.uniform(0.002, 0.08))
        read_all(store)
        for process in processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        read_all(store)


def main() -> None:
    mode, address = sys.argv[1:3]
    if mode == "together":
        together(address)
    else:
        killed(address, int(sys.argv[3]))
    store = Store.open(address)
    leftovers = len(list(Path(address).rglob("*.part")))
    before = verify_store(store)
    try:
        count = read_all(store)
    except FileFormatError as error:
        sys.exit(f"damaged: {error}")
    store.write_root("all", store.ids())
    collect_garbage(store, grace=-1)
    after = verify_store(store)
    remaining = len(list(Path(address).rglob("*.part")))
    sys.stdout.write(f"{count} {leftovers} {before.passed} {after.passed} {len(after.unreferenced)} {remaining}")


if __name__ == "__main__":
    main()
