"""Modules without memory for their parameters."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.checkpoints import parameters_on_meta, with_reserved_memory


class Rotating(nn.Module):
    """A module whose forward pass reads values of a buffer."""

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)
        self.register_buffer("angles", torch.tensor([0.5, 0.25]), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if self.angles[0].item() > 0.4 else 1.0
        scaled: Tensor = self.second(torch.tanh(self.first(x))) * scale
        return scaled


def test_parameters_have_no_memory_and_buffers_have_values() -> None:
    with parameters_on_meta():
        model = nn.Sequential(nn.Linear(2**14, 2**14), nn.BatchNorm2d(5), Rotating())
        after = torch.ones(2)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(model.get_buffer("1.running_var"), torch.ones(5))
    assert torch.equal(model.get_buffer("2.angles"), torch.tensor([0.5, 0.25]))
    assert after.device.type == "cpu"
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_shared_parameters_remain_shared() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = nn.Parameter(torch.ones(3))
            self.one = nn.Module()
            self.other = nn.Module()
            self.one.weight = weight
            self.other.weight = weight
            self.third = nn.Linear(2, 2)
            self.fourth = nn.Linear(2, 2)
            self.fourth.weight = self.third.weight

    with parameters_on_meta():
        model = Shared()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["one.weight", "third.weight", "third.bias", "fourth.bias"]


def test_flags_and_dtypes_of_parameters_are_kept() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
    vars(weight)["no_weight_decay"] = True
    module = nn.Module()
    with parameters_on_meta():
        module.weight = weight
    found = module.get_parameter("weight")
    assert found is not weight
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad
    assert vars(found)["no_weight_decay"]


def test_other_threads_are_not_affected() -> None:
    devices: list[str] = []
    with parameters_on_meta():
        thread = threading.Thread(target=lambda: devices.append(nn.Linear(1, 1).weight.device.type))
        thread.start()
        thread.join()
    assert devices == ["cpu"]


def test_the_hook_is_removed_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), parameters_on_meta():
        raise ZeroDivisionError
    assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_lazy_modules_stay_lazy() -> None:
    with parameters_on_meta():
        model = nn.LazyLinear(3)
    assert model.has_uninitialized_params()


def test_models_with_reserved_memory_are_traced_like_those_with_parameters() -> None:
    with parameters_on_meta():
        model = Rotating()
    reserved = with_reserved_memory(model)
    assert {p.device.type for p in reserved.parameters()} == {"cpu"}
    assert {p.device.type for p in model.parameters()} == {"meta"}
    inputs = torch.randn(2, 4)
    expected = rc.trace_spec(Rotating(), inputs)
    assert rc.trace_spec(reserved, inputs).layout == expected.layout
    assert expected.groups


def test_ties_and_strides_are_kept_by_reserved_memory() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)).to("meta")
    model[1].weight = model[0].weight
    reserved = with_reserved_memory(model)
    assert [name for name, _ in reserved.named_parameters()] == ["0.weight"]
    transposed = nn.Module()
    transposed.weight = nn.Parameter(torch.empty(4, 3, device="meta").t())
    assert with_reserved_memory(transposed).get_parameter("weight").stride() == (1, 3)


def test_a_module_that_cannot_be_copied_is_returned() -> None:
    module = nn.Linear(2, 2, device="meta")
    vars(module)["lock"] = threading.Lock()
    assert with_reserved_memory(module) is module
