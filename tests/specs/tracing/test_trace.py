"""Models whose buffers are shared, missing or fixed by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.errors import SpecError

if TYPE_CHECKING:
    from rebasin_core.specs.tracing.capture import Method


class Masked(nn.Module):
    """A dense layer on masked inputs; the mask is a constant."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(len(mask), len(mask))
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("cache", None, persistent=False)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.dense(inputs * self.mask).relu()
        return output


@pytest.mark.parametrize("method", ["export", "execution"])
def test_modules_may_share_a_buffer_that_is_not_saved(method: Method) -> None:
    mask = torch.tensor([1.0, 0.0, 2.0, 1.0])
    model, inputs = nn.Sequential(Masked(mask), Masked(mask), nn.Linear(4, 3)), torch.randn(2, 4)
    spec = trace_spec(model, inputs, method=method)
    assert check_spec(spec, model, inputs).passed
    axes = spec.layout.as_json()["axes"]
    assert axes["0.mask"] == "4"
    assert "1.mask" not in axes
    assert axes["2.weight"] == "3, units.1.dense"


def test_a_freeze_pattern_without_a_match_is_an_error() -> None:
    with pytest.raises(SpecError, match="no parameter or buffer matches 'weights' in `freeze`"):
        trace_spec(nn.Linear(3, 2), torch.randn(1, 3), freeze=["weights"])
