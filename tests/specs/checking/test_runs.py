"""The number of times that a check runs the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.specs.checking.runs import Runner
from rebasin_core.symmetry.axis import atoms_of


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Returns a list with one entry for each run of a model by a check: whether it computes gradients."""
    runs: list[bool] = []
    original: Callable[..., list[torch.Tensor]] = Runner.__call__

    def call(self: Runner, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        runs.append(torch.is_grad_enabled())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Runner, "__call__", call)
    return runs


def mlp(function: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), function, nn.Linear(7, 6), function, nn.Linear(6, 3))


RUNS = {1: 3, 2: 6, 3: 7, 5: 9}


@pytest.mark.parametrize(
    ("function", "dimension", "signs"), [(nn.ReLU(), 13, 0), (nn.Tanh(), 0, 13), (nn.GELU(), 0, 0)]
)
@pytest.mark.parametrize("tries", RUNS)
def test_two_runs_at_each_of_two_parameters_and_one_for_each_group_element(
    counted: list[bool], function: nn.Module, dimension: int, signs: int, tries: int
) -> None:
    model, x = mlp(function), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    spec = rc.trace_spec(model, x)
    check = rc.check_spec(spec, model, x, tries=tries)
    check.require()
    assert (check.dimension, check.log2_signs) == (dimension, signs)  # the maps that were checked
    assert len(counted) == RUNS[tries]
    assert sum(counted) == 1


class Attention(nn.Module):
    """Two heads whose keys have biases, which do not affect the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [layer(x).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        found = nn.functional.scaled_dot_product_attention(*heads)
        output: torch.Tensor = self.out(found.transpose(1, 2).flatten(-2))
        return output


def test_a_tensor_without_effect_is_classified_once_for_all_groups_that_act_on_it(counted: list[bool]) -> None:
    model, x = Attention(), torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    spec = rc.trace_spec(model, x)
    assert len({atom.group for axis in spec.layout.axes["k.bias"] for atom in atoms_of(axis)}) == 2
    check = rc.check_spec(spec, model, x)
    check.require()
    assert check.inert == ("k.bias",)
    # Two runs with all tensors without effect permuted and perturbed, and one for the only one.
    assert len(counted) == 7 + 2 + 1
    assert sum(counted) == 1
