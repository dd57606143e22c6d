"""REPAIR keeps the dtype and names the weights that it skips."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typing_extensions import override

from rebasin_core.errors import UnreadWeightWarning
from rebasin_core.evaluation import ActivationRepair


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repair_keeps_the_dtype_of_the_tensors(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = [(x, torch.zeros(20).long())]
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    repair = ActivationRepair(model, x[:2], dtype=dtype)
    moments = repair.moments(tensors, data)
    assert {moments.mean["0"].dtype, moments.stddev["0"].dtype} == {dtype}
    maps = repair.maps({name: 0.5 * tensor for name, tensor in tensors.items()}, data, moments)
    assert {maps.scale["0"].dtype, maps.shift["0"].dtype} == {dtype}
    torch.testing.assert_close(maps.scale["0"], torch.full((4,), 2.0, dtype=dtype))
    torch.testing.assert_close(maps.shift["0"], torch.zeros(4, dtype=dtype))
    assert {tensor.dtype for tensor in maps.folded(tensors).values()} == {dtype}


class FixedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.register_buffer("offset", torch.ones(3))
        self.head = nn.Linear(3, 2)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.linear(x, self.weight, self.get_buffer("offset"))
        output: torch.Tensor = self.head(hidden.relu())
        return output


def test_a_warning_names_a_weight_whose_bias_is_a_buffer() -> None:
    with pytest.warns(UnreadWeightWarning, match=r"`weight` \(its bias is a buffer\)") as caught:
        repair = ActivationRepair(FixedBias(), torch.ones(2, 3))
    assert not repair
    assert len(caught) == 1
    assert "`head" not in str(caught[0].message)
