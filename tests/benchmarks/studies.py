"""Cost of the engine of studies: planning, scheduling, reuse, and the speed-up of two workers.

    python tests/benchmarks/studies.py [plan | run]

``plan`` plans studies of about 1,000, 10,000 and 100,000 stages. ``run`` computes a study of more than 300 stages (the
digits, MLPs with one and two layers of 512 units, 100 epochs) in this process and in one and two worker
processes, then again, and with one option changed. All workers use one thread.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter, process_time

import torch

import rebasin_core as rc
from rebasin_core.executors import ProcessesExecutor
from rebasin_core.studies.engine.state import Progress
from rebasin_core.studies.store import Store, disk_usage

BASE = {
    "data": "digits",
    "architecture": {"name": "mlp", "hidden": [512, 512]},
    "inference": {"name": "map", "epochs": 100},
    "matchers": ["weight", "activation"],
    "barrier": {"name": "pointwise", "num_points": 25},
}


def megabytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def plan() -> None:
    """Time the planning of studies of increasing size, and their scheduling without any work."""
    print(f"peak memory before: {megabytes()} MB")
    print(f"{'stages':>8} {'plan (s)':>9} {'schedule (s)':>13} {'us a stage':>11} {'peak MB':>8}")
    for cells in (10, 100, 1000):
        scales = [0.01 * (index + 1) for index in range(cells)]
        config = rc.StudyConfig(base=BASE, grid={"inference.prior_scale": scales}, seeds=8, matchers=["weight"])
        start = perf_counter()
        study = rc.Study(config, "no-such-store")
        planned = perf_counter() - start
        start = perf_counter()
        state = Progress(study.plan.graph, study.plan.targets, set())
        state.start({})
        while state.has_ready:
            state.finish(state.pop().id)
        scheduled = perf_counter() - start
        number = len(study.plan.graph)
        each = (planned + scheduled) / number * 1e6
        print(f"{number:>8} {planned:>9.2f} {scheduled:>13.2f} {each:>11.0f} {megabytes():>8}")


def run(folder: Path) -> None:
    """Time a study in this process and in worker processes, a second call, and a changed option."""
    torch.set_num_threads(1)
    grid = {"inference.prior_scale": [0.1, 0.3, 1.0, 3.0], "architecture.hidden": [[512], [512, 512]]}
    config = rc.StudyConfig(base=BASE, grid=grid, seeds=4)
    times = {}
    for name, executor in (
        ("in process", None),
        ("one worker", ProcessesExecutor(workers=1, threads=1)),
        ("two workers", ProcessesExecutor(workers=2, threads=1)),
    ):
        study = rc.Study(config, folder / name)
        start = process_time()
        outcome = study.run(executor=executor)
        driver = process_time() - start
        times[name] = outcome.seconds
        engine = outcome.seconds - outcome.work_seconds
        number = len(outcome.computed)
        print(f"{name:<12} {number} stages in {outcome.seconds:.1f} s; work {outcome.work_seconds:.1f} s")
        if executor is None:
            each = 1000 * engine / number
            print(f"{'':<12} engine: {each:.1f} ms a stage, {engine / outcome.work_seconds:.1%} of the work")
        else:
            print(f"{'':<12} driver: {1000 * driver / number:.1f} ms of CPU time a stage")
    print(f"speed-up of two workers over one: {times['one worker'] / times['two workers']:.2f}")
    for kind, usage in disk_usage(Store.open(folder / "in process")).kinds.items():
        print(f"{'':<12} {kind}: {usage.artifacts} artifacts, {usage.size / usage.artifacts / 1024:.1f} KiB each")
    start = perf_counter()
    again = rc.Study(config, folder / "in process").run()
    print(f"again: {len(again.computed)} stages computed, {perf_counter() - start:.2f} s with planning")
    changed = config.replace(matchers={"weight": {"name": "weight", "max_sweeps": 50}, "activation": "activation"})
    study = rc.Study(changed, folder / "in process")
    outcome = study.run()
    kinds = Counter(study.plan.graph[identity].kind for identity in outcome.computed)
    print(f"an option of one matcher changed: computed {dict(kinds)}")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "all"
    if chosen in {"plan", "all"}:
        plan()
    if chosen in {"run", "all"}:
        with tempfile.TemporaryDirectory() as temporary:
            run(Path(temporary))
