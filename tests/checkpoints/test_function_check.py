"""Comparison of the functions of two sets of tensors."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.checkpoints import FunctionDifference, function_difference, parameters_on_meta
from rebasin_core.errors import InvalidInputError
from rebasin_core.testing.examples.model_sources import TiedNetwork

NUMBERS = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def tensors_of(module: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    every = [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if n in module.state_dict())]
    return {
        name: torch.rand(tensor.shape, generator=generator).add(0.1).to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in every
    }


def loaded(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    copied = copy.deepcopy(module)
    copied.load_state_dict(tensors, strict=False)
    return copied.eval()


def test_the_error_is_the_relative_change_of_the_outputs() -> None:
    module, inputs = mlp(), torch.randn(5, 6)
    first, second = tensors_of(module, 0), tensors_of(module, 1)
    found = function_difference(module, first, second.__getitem__, ((inputs,), {}))
    one, other = loaded(module, first)(inputs), loaded(module, second)(inputs)
    assert found.error == pytest.approx(((other - one).norm() / one.norm()).item(), rel=1e-4)
    assert not found.is_kept
    assert "NOT kept" in str(found)


def test_group_elements_are_kept_and_wrong_ones_are_not() -> None:
    with parameters_on_meta():
        module = TiedNetwork()
    real = TiedNetwork()
    spec = rc.trace_spec(real, NUMBERS)
    first = tensors_of(real)
    permuted = spec.random_permutation(generator=torch.Generator().manual_seed(2)).apply(first | {"table": real.table})
    found = function_difference(module, first, permuted.__getitem__, ((NUMBERS,), {}))
    assert found.is_kept
    assert found.error < 1e-5
    assert "function kept" in str(found)
    for name in ("hidden.bias", "norm.running_mean", "back.weight"):
        wrong = {**first, name: permuted[name]}
        assert not torch.equal(first[name], permuted[name])
        assert not function_difference(module, first, wrong.__getitem__, ((NUMBERS,), {})).is_kept


def test_rounding_is_accepted() -> None:
    module, inputs = mlp(), torch.randn(5, 6)
    first = tensors_of(module)
    rounded = {name: tensor * (1 + 1e-7) for name, tensor in first.items()}
    found = function_difference(module, first, rounded.__getitem__, ((inputs,), {}))
    assert 0 < found.error <= found.tolerance
    assert found.noise == pytest.approx(found.tolerance / 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_narrow_tensors_are_compared_in_float32(dtype: torch.dtype) -> None:
    module, inputs = mlp(), torch.randn(5, 6)
    first = tensors_of(module, dtype=dtype)
    second = {name: tensor.float() + 0.01 for name, tensor in first.items()}
    found = function_difference(module, first, second.__getitem__, ((inputs,), {}))
    assert found.dtype == torch.float32
    assert found.tolerance < 1e-4
    assert not found.is_kept


def test_the_dtype_can_be_chosen() -> None:
    module, inputs = mlp(), torch.randn(5, 6)
    first = tensors_of(module, dtype=torch.bfloat16)
    found = function_difference(module, first, first.__getitem__, ((inputs,), {}), dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert found.error == 0
    assert found.noise > 1e-4
    wide = tensors_of(module, dtype=torch.float64)
    found = function_difference(module, wide, wide.__getitem__, ((inputs,), {}))
    assert found.dtype == torch.float64
    assert found.tolerance < 1e-12


def test_few_produced_tensors_exist_at_a_time() -> None:
    module = nn.Sequential(*(nn.Linear(6, 6) for _ in range(20)))
    first = tensors_of(module)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def produce(name: str) -> Tensor:
        nonlocal most
        tensor = first[name].clone()
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    gc.collect()
    assert function_difference(module, first, produce, ((torch.randn(2, 6),), {})).error == 0
    assert most <= 2  # the weight and the bias of one layer
    assert not alive


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LSTM(3, 5, num_layers=2, batch_first=True), torch.randn(2, 4, 3)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 4, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 2, 3)), torch.randn(2, 3, 6, 6)),
        (nn.Bilinear(3, 3, 2), (torch.randn(2, 3), torch.randn(2, 3))),
    ],
    ids=["lstm", "attention", "convolution", "bilinear"],
)
def test_layers_with_other_uses_of_parameters(module: nn.Module, inputs: object) -> None:
    first, second = tensors_of(module, 0), tensors_of(module, 1)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    found = function_difference(module.to("meta"), first, second.__getitem__, (args, {}))
    assert not found.reason
    assert found.error > found.tolerance
    assert function_difference(module, first, first.__getitem__, (args, {})).error == 0


def test_modules_are_not_changed() -> None:
    module = mlp()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    first = tensors_of(module)
    function_difference(module, first, first.__getitem__, ((torch.ones(2, 6),), {}))
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_outputs_that_cannot_be_compared_have_a_reason() -> None:
    module = nn.Linear(6, 3)
    first = tensors_of(module)

    def compare(inputs: Tensor, tensors: dict[str, Tensor] = first) -> FunctionDifference:
        return function_difference(module, tensors, tensors.__getitem__, ((inputs,), {}))

    failed = compare(torch.randn(2, 7))
    assert "RuntimeError" in failed.reason
    assert compare(torch.full((2, 6), math.nan)).reason == "the outputs are not finite"
    zero = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    assert compare(torch.randn(2, 6), zero).reason == "the outputs do not depend on the parameters"
    assert not failed.is_kept
    assert str(failed).startswith("outputs were not compared")


def test_masked_scores_are_compared() -> None:
    class Masked(nn.Linear):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(torch.tensor([True, False, False]), -math.inf)

    module = Masked(6, 3)
    first = tensors_of(module)
    found = function_difference(module, first, first.__getitem__, ((torch.randn(2, 6),), {}))
    assert found.error == 0
    assert found.is_kept


def test_missing_tensors_are_errors() -> None:
    module = nn.Linear(6, 3).to("meta")
    with pytest.raises(InvalidInputError, match=r"got none for `bias`"):
        function_difference(module, {"weight": torch.ones(3, 6)}, lambda _: torch.ones(3, 6), ((torch.ones(2, 6),), {}))


def test_models_without_numbers_as_outputs_are_errors() -> None:
    class Largest(nn.Linear):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(-1)

    module = Largest(6, 3)
    first = tensors_of(module)
    with pytest.raises(InvalidInputError, match="floating-point outputs, got none from Largest"):
        function_difference(module, first, first.__getitem__, ((torch.ones(2, 6),), {}))


class Fetching(nn.Module):
    """Reads a parameter by `get_parameter`, which accepts no other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.last((inputs @ self.get_parameter("first.weight").T + self.first.bias).relu())
        return output


def test_models_that_fetch_parameters_by_name_are_compared() -> None:
    module, inputs = Fetching(), torch.randn(5, 6)
    first, second = tensors_of(module, 0), tensors_of(module, 1)
    found = function_difference(module, first, second.__getitem__, ((inputs,), {}))
    one, other = loaded(module, first)(inputs), loaded(module, second)(inputs)
    assert found.error == pytest.approx(((other - one).norm() / one.norm()).item(), rel=1e-4)


def test_linear_layers_in_blocks_of_rows_have_the_outputs_of_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 11, bias=False), nn.Linear(11, 3)).double()
    tensors = {name: tensor.detach() for name, tensor in module.named_parameters()}
    other = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    inputs: tuple[tuple[Tensor, ...], dict[str, object]] = ((torch.randn(2, 4, 5).double(),), {})
    whole = function_difference(module, tensors, other.__getitem__, inputs)
    monkeypatch.setattr("rebasin_core.tensors.widening.PART", 14)
    blocks = function_difference(module, tensors, other.__getitem__, inputs)
    assert blocks.error == pytest.approx(whole.error, rel=1e-9)
    assert blocks.noise == pytest.approx(whole.noise, rel=1e-3)
    expected = functional_outputs(module, other, inputs[0][0])
    outputs = module(inputs[0][0])
    error = ((outputs - expected).norm() / outputs.norm()).item()
    assert blocks.error == pytest.approx(error, rel=1e-9)


def functional_outputs(module: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    output: Tensor = torch.func.functional_call(module, tensors, (inputs,))
    return output
