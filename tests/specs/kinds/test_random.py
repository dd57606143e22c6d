"""Operators that draw random numbers: linear maps are those of a fixed draw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc


class Dropped(nn.Module):
    """Two layers with dropout between them, also in evaluation mode."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.first, self.last = name, nn.Linear(3, 6), nn.Linear(6, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = getattr(nn.functional, self.name)(self.first(x)[:, :, None], 0.4, training=True)[:, :, 0]
        output: Tensor = self.last(hidden)
        return output


@pytest.mark.parametrize(("name", "maps"), [("dropout", "nonzero"), ("dropout1d", "nonzero"), ("alpha_dropout", "")])
def test_dropped_units_are_not_mixed(name: str, maps: str) -> None:
    model, inputs = Dropped(name), torch.randn(4, 3)
    spec = rc.trace_spec(model, inputs)
    (group,) = spec.coverage.kinds
    assert group.maps == maps
    found = rc.check_spec(spec, model, inputs)
    assert found.kept or "the outputs are random" in found.reason
