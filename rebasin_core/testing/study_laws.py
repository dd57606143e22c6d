"""The law of executors that needs the engine of studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from rebasin_core.config.study import StudyConfig
from rebasin_core.executors.in_process import InProcessExecutor
from rebasin_core.studies.study import Study
from rebasin_core.testing.law import expect, law

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.executors.base import Executor


@law("executor")
def studies(config: object, folder: Path) -> None:
    """A small study through the executor has the same artifacts as in this process with equally many threads."""
    executor = cast("Executor", config)
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    np.savez(folder / "toy.npz", x=x, y=x @ [1.0, -1.0, 0.5], test_index=np.arange(20)[None])
    study = StudyConfig.model_validate({
        "base": {
            "data": {"name": "uci", "dataset": "toy", "root": str(folder)},
            "architecture": {"name": "mlp", "hidden": [4]},
            "inference": {"name": "map", "epochs": 1},
            "barrier": {"name": "pointwise", "num_points": 3},
        },
        "seeds": 2,
        "matchers": ["weight", "activation"],
    })
    there = Study(study, folder / "there")
    outcome = there.run(executor=executor)
    expect(not outcome.failures, f"stages failed: {[str(failure) for failure in outcome.failures.values()]}")
    here = Study(study, folder / "here")
    before = torch.get_num_threads()
    threads = {there.store.read(identity).about["threads"] for identity in outcome.computed}
    try:
        torch.set_num_threads(max(threads))
        here.run(executor=InProcessExecutor())
    finally:
        torch.set_num_threads(before)
    expected = {identity: here.store.read(identity).digest for identity in here.store.ids()}
    found = {identity: there.store.read(identity).digest for identity in there.store.ids()}
    expect(len(threads) == 1, f"workers have different numbers of threads: {threads}")
    expect(found == expected, "the artifacts differ from those of a study in this process")
