"""Modules without memory for their parameters."""

from __future__ import annotations

import resource
import threading

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.checkpoints import parameters_on_meta, with_reserved_memory
from rebasin_core.checkpoints.construction import put_on_meta, without_initialization


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


def test_copies_and_wrapped_modules_have_no_memory_either() -> None:
    with parameters_on_meta():
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(
            nn.TransformerEncoder(layer, 2), nn.LSTM(8, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        )
    assert {(type(p), p.device.type) for p in model.parameters()} == {(nn.Parameter, "meta")}
    assert {type(p) for p in layer.parameters()} == {nn.Parameter}
    real = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert [n for n, _ in model[0].named_parameters()] == [n for n, _ in real.named_parameters()]


class Masked(nn.Module):
    """A module that computes a buffer on the device of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(2**16, 2**15)  # 8 GB
        with torch.no_grad():
            nn.init.trunc_normal_(self.large.weight[:5])
            self.large.weight.data.normal_()
            self.large.weight[3] = 2.0
            self.large.weight.copy_(torch.zeros(1))
        self.large.bias.requires_grad = False
        mask = torch.zeros(3, device=self.large.weight.device)
        mask += 1.0
        self.register_buffer("mask", mask.cumsum(0), persistent=False)


def test_buffers_are_computed_without_initialization_of_parameters() -> None:
    with parameters_on_meta():
        model = Masked()
    assert model.get_buffer("mask").device.type == "meta"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with without_initialization():
        model = Masked()
    put_on_meta(model)
    assert model.get_buffer("mask").tolist() == [1.0, 2.0, 3.0]
    assert not model.get_parameter("large.bias").requires_grad
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # 1 GB
    assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_ties_and_references_of_recurrent_layers_are_kept_on_meta() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.LSTM(3, 4))
    model[1].weight = model[0].weight
    put_on_meta(model)
    assert [n for n, _ in model.named_parameters()][:2] == ["0.weight", "2.weight_ih_l0"]
    recurrent = model[2]
    assert isinstance(recurrent, nn.LSTM)
    assert [w is p for w, p in zip(recurrent._flat_weights, recurrent.parameters(), strict=True)] == [True] * 4


def test_parameters_are_initialized_without_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with parameters_on_meta():
        model = nn.Linear(2**16, 2**15)  # 8 GB
        nn.init.trunc_normal_(model.weight)
        nn.init.zeros_(model.weight)
        model.weight.data.normal_()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # 1 GB


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
