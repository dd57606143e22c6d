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


def test_posteriors_with_one_start_seed_share_their_first_network(tmp_path: Path) -> None:
    store = tmp_path / "store"
    alone = rc.run(config(tmp_path, inference=POINT, reference={"seed": 7}), tmp_path / "alone", store=store)
    started = rc.run(config(tmp_path, inference=STILL, start=POINT, start_seed=7), tmp_path / "started", store=store)
    assert "train reference" in alone.computed
    # The shared network is that of the first run.
    assert not [label for label in started.computed if "start" in label]
    point = rc.load_posterior(tmp_path / "alone/posteriors/reference.safetensors")
    for role in ("reference", "candidate"):
        posterior = rc.load_posterior(tmp_path / f"started/posteriors/{role}.safetensors")
        torch.testing.assert_close(posterior.mean, point.mean, rtol=0, atol=0)


def test_posteriors_with_one_start_seed_share_their_initialization(tmp_path: Path) -> None:
    still = {"name": "map", "epochs": 1, "optimizer": {"name": "SGD", "lr": 0.0}}
    rc.run(config(tmp_path, inference=still, start_seed=7), tmp_path / "run")
    rc.run(config(tmp_path, inference=still, reference={"seed": 7}), tmp_path / "own")
    own = rc.load_posterior(tmp_path / "own/posteriors/reference.safetensors")
    other = rc.load_posterior(tmp_path / "own/posteriors/candidate.safetensors")
    for role in ("reference", "candidate"):
        found = rc.load_posterior(tmp_path / f"run/posteriors/{role}.safetensors")
        torch.testing.assert_close(found.mean, own.mean, rtol=0, atol=0)
        assert not torch.equal(found.mean["layers.0.weight"], other.mean["layers.0.weight"])
