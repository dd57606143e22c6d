"""Reports and verdicts compare the parameters of two networks, not their running statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

import rebasin_core as rc
from rebasin_core.api.checkpoints import Relation


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def aligned(folder: Path, variance: Tensor) -> rc.api.checkpoints.CheckpointAlignment:
    for seed in (0, 1):
        state = {**network(seed).state_dict(), "1.running_var": variance}
        save_file(state, folder / f"{seed}.safetensors")
    spec = rc.trace_spec(network(0), torch.randn(3, 8))
    model = {"name": "factory", "factory": f"{__name__}:made", "inputs": ["3,8"]}
    return rc.align_checkpoints(folder / "0.safetensors", folder / "1.safetensors", model=model, spec=spec)


def made() -> nn.Module:
    return network(0)


def test_the_distance_is_that_of_the_parameters(tmp_path: Path) -> None:
    first, second = [parameters_to_vector(network(seed).parameters()).detach().double() for seed in (0, 1)]
    scale = ((first.norm() ** 2 + second.norm() ** 2) / 2).sqrt()
    found = aligned(tmp_path, torch.full((16,), 1e6))
    torch.testing.assert_close(found.distances.total.unaligned, float((first - second).norm() / scale))
    assert found.distances.tensors.keys() == {name for name, _ in network(0).named_parameters()}


def test_equal_running_variances_do_not_make_random_networks_related(tmp_path: Path) -> None:
    found = aligned(tmp_path, torch.full((16,), 1e6))
    assert found.chance is not None
    assert found.chance.tensors.keys() == found.distances.tensors.keys()
    assert found.verdict.relation in {Relation.CHANCE, Relation.INDEPENDENT}
