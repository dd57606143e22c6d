"""Posteriors that start at trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import rebasin_core as rc
from tests.studies.tiny import write_study

POINT: dict[str, Any] = {"name": "map", "epochs": 3, "optimizer": {"name": "Adam", "lr": 0.01}}
STILL = {"name": "mean_field_vi", "epochs": 1, "optimizer": {"name": "SGD", "lr": 0.0}}


def config(folder: Path, **options: Any) -> rc.RunConfig:
    write_study(folder)
    return rc.RunConfig(
        data={"name": "uci", "dataset": "toy", "root": folder},
        architecture={"name": "mlp", "hidden": [8]},
        matchers=["weight"],
        barrier={"name": "pointwise", "num_points": 3},
        batch_size=50,
        **options,
    )


def test_posteriors_start_at_trained_networks_which_are_stored_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    rc.run(config(tmp_path, inference=POINT), tmp_path / "points", store=store)
    started = rc.run(config(tmp_path, inference=STILL, start=POINT), tmp_path / "started", store=store)
    rc.run(config(tmp_path, inference=STILL), tmp_path / "alone", store=store)
    trained = [label for label in started.computed if label.startswith("train")]
    # The training data, and the posteriors: their starts are the networks of the first run.
    assert sorted(trained) == ["train candidate", "train reference"]
    for role in ("reference", "candidate"):
        folders = (tmp_path / "points", tmp_path / "started", tmp_path / "alone")
        point, posterior, other = [rc.load_posterior(folder / f"posteriors/{role}.safetensors") for folder in folders]
        for name, tensor in point.mean.items():
            assert torch.equal(posterior.mean[name], tensor)
            assert not torch.equal(other.mean[name], tensor)
        assert not posterior.is_point
