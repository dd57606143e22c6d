"""Methods, scores and output of the comparisons with other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rebasin_core as rc

if TYPE_CHECKING:
    import torch


def methods_of(study: str) -> dict[str, rc.Inference]:
    """Return the inference methods of a study file of this folder, by variant."""
    cells = rc.load_study(Path(__file__).with_name(study)).cells()
    return {str(cell.factors["variant"]): cell.config.inference for cell in cells}


def image_scores(posterior: rc.Posterior, model: torch.nn.Module, data: rc.data.DataSplits) -> dict[str, float]:
    """Return NLL with its standard error over test examples, accuracy, ECE (15 bins) and Brier score."""
    found = rc.score(posterior, rc.Task(model, data.test.batches(1000)))
    values = {name: found.values[name] for name in ("accuracy", "ece", "brier")}
    return {"nll": found.nll, "nll_stderr": found.nll_data_stderr, **values}


def regression_scores(posterior: rc.Posterior, model: torch.nn.Module, data: rc.data.DataSplits) -> dict[str, float]:
    """Return RMSE and NLL of the predictive distribution, in the original units of the targets."""
    task = rc.Task(model, data.test.batches(1000), rc.Likelihood.of("heteroscedastic"))
    values = rc.score(posterior, task, num_samples=128, target_scale=data.target.scale).values
    return {"rmse": values["rmse_original"], "nll": values["nll_original"]}


def write(path: Path, record: dict[str, object]) -> None:
    """Append a record to a file of JSON lines, and print it."""
    print(record, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
