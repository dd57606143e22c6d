"""The architectures of published checkpoints have the published sizes, and can be traced."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc

# Numbers of parameters: of ResNets as in the table of He et al. (2015), of LeNet-5 and the others by hand.
NUM_PARAMETERS = {
    "mnist_mlp": 784 * 400 + 400 * 200 + 200 * 100 + 100 * 10,
    "mnist_cnn": 320 + 18_496 + 16_010,
    "mnist_mlp_bn": 785 * 200 + 2 * 201 * 200 + 3 * 2 * 200 + 2010,
    "mnist_bayesian_cnn": 320 + 18_496 + 73_856 + 33_024 + 32_896 + 1290,
    "lenet5": 61_706,
    "resnet20b": 272_474,
    "resnet20a": 269_722,
    "resnet32a": 464_154,
    "convnet": 448 + 4640 + 18_496 + 262_400 + 2570,
    "cifar10_bayesian_cnn": 896 + 18_496 + 73_856 + 131_328 + 32_896 + 1290,
    "s5_mlp": 2 * 120 * 256 + 512 * 128 + 128 * 120,
    "d59_mlp": 2 * 118 * 256 + 512 * 128 + 128 * 118,
    "c59_mlp": 59 * 128 + 257 * 256 + 59 * 256,
    "c113_transformer": (114 + 3) * 128 + 4 * 129 * 128 + 513 * 128 + 129 * 512 + 129 * 113,
    "d59_transformer": (119 + 3) * 128 + 4 * 129 * 128 + 513 * 128 + 129 * 512 + 129 * 118,
    "c59_pizza": (59 + 2) * 128 + 4 * 128 * 128 + 513 * 128 + 129 * 512 + 128 * 59,
    "pendulum": 2 * (4 * 64 + 65 * 64 + 65) + 64,
    "iron_hydrogen": 2 * (65 * 15 + 16 * 15 + 16),
}
QUICK = ["mnist_cnn", "lenet5", "s5_mlp", "c59_mlp", "c59_pizza", "pendulum", "iron_hydrogen"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs" / "results")
    return importlib.import_module


@pytest.mark.parametrize(("name", "expected"), NUM_PARAMETERS.items())
def test_architectures_have_the_published_numbers_of_parameters(
    scripts: Callable[[str], Any], name: str, expected: int
) -> None:
    with torch.device("meta"):
        model: nn.Module = getattr(scripts("published"), name)()
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_every_family_has_an_architecture(scripts: Callable[[str], Any]) -> None:
    assert scripts("families").FAMILIES.keys() == NUM_PARAMETERS.keys()


def traced(scripts: Callable[[str], Any], name: str) -> rc.PermutationSpec:
    spec: rc.PermutationSpec = scripts("families").specification(name)
    return spec


@pytest.mark.parametrize("name", QUICK)
def test_symmetries_are_derived_and_verified(scripts: Callable[[str], Any], name: str) -> None:
    assert traced(scripts, name).layout.groups


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(NUM_PARAMETERS.keys() - set(QUICK)))
def test_symmetries_of_larger_networks_are_derived_and_verified(scripts: Callable[[str], Any], name: str) -> None:
    assert traced(scripts, name).layout.groups


@pytest.mark.parametrize("name", ["mnist_mlp", "resnet20a"])
def test_files_with_other_names_are_an_error(scripts: Callable[[str], Any], name: str) -> None:
    load: Callable[[str, Mapping[str, Tensor]], nn.Module] = scripts("families").load
    tensors = dict(getattr(scripts("published"), name)().state_dict())
    assert load(name, tensors).state_dict().keys() == tensors.keys()
    with pytest.raises(ValueError, match=r"unused \['other'\]"):
        load(name, {**tensors, "other": torch.zeros(1)})
    del tensors[next(iter(tensors))]
    with pytest.raises(ValueError, match="missing"):
        load(name, tensors)


class Controller(nn.Module):
    """A policy for the pendulum that swings it up by its energy, and then balances it."""

    @override
    def forward(self, observations: Tensor) -> Tensor:
        cosine, sine, speed = observations.T
        balance = -10 * sine - 2 * speed
        energy = speed.square() / 6 + 5 * (cosine - 1)  # of a rod of length 1 and mass 1, at g = 10; 0 upright
        swing = -2 * speed.sign() * energy.sign()
        return torch.where(cosine > 0.9, balance, swing)[:, None]


class Idle(nn.Module):
    """A policy without torque."""

    @override
    def forward(self, observations: Tensor) -> Tensor:
        return torch.zeros(len(observations), 1)


def test_the_pendulum_can_be_balanced(scripts: Callable[[str], Any]) -> None:
    mean_return: Callable[[nn.Module], float] = scripts("families").mean_return
    assert mean_return(Controller()) > -300 > -1000 > mean_return(Idle())


def test_shuffled_networks_have_the_same_entries(scripts: Callable[[str], Any]) -> None:
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5.0)}
    shuffled = scripts("verdicts").shuffled(tensors, torch.Generator().manual_seed(0))
    for name, tensor in tensors.items():
        assert shuffled[name].tolist() != tensor.tolist()
        assert shuffled[name].flatten().sort().values.tolist() == tensor.flatten().tolist()
    rows = shuffled["a"].sort(dim=1).values.tolist()
    assert sorted(rows) == tensors["a"].tolist()


def test_reports_differ_where_values_differ_by_more_than_rounding(scripts: Callable[[str], Any]) -> None:
    differences: Callable[[object, object], list[str]] = scripts("published_files").differences
    first = {"reference": "a.npz", "relation": "equal", "total": {"size": 3, "after": 0.5}}
    assert differences(first, {**first, "reference": "a.pt", "total": {"size": 3, "after": 0.5 + 1e-8}}) == []
    assert differences(first, {**first, "total": {"size": 3, "after": 0.501}}) == [".total.after: 0.5 and 0.501"]
    assert differences(first, {**first, "relation": "chance"}) == [".relation: equal and chance"]
    assert differences(first, {"relation": "equal"}) == [f": {first} and {{'relation': 'equal'}}"]


def test_the_report_of_a_command_is_compared_with_python(scripts: Callable[[str], Any]) -> None:
    from_python: Callable[[dict[str, Any], dict[str, Any]], list[str]] = scripts("published_files").from_python
    report = {"relation": "independent", "permuted": {"distance_before": 1.4, "distance_after": 1.2}}
    line = {"verdict": "better than chance", "distance_before": 1.4, "distance_after": 1.2 + 1e-8}
    assert from_python(report, line) == []
    assert from_python({**report, "relation": "chance"}, line) == ["chance: better than chance"]
    assert from_python(report, {**line, "distance_after": 1.3}) == ["distance_after: 1.2, in Python 1.3"]
