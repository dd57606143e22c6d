"""Networks in which wrong axes are hard to detect, and networks that are hard to run in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core import check_spec, table_spec, trace_spec
from rebasin_core.errors import SpecError
from rebasin_core.specs import SpecCheck
from rebasin_core.specs.checking.advice import Adviser
from rebasin_core.tensors.modules import named_tensors
from tests.specs.checking.networks import (
    IMAGES,
    ROWS,
    TOKENS,
    Net,
    deep,
    dying,
    inputs_of,
    masked,
    spectral,
    two_heads,
)


def lone_axis(model: nn.Module, tensor: str, dim: int = 0) -> dict[str, str]:
    """Return a table in which a group acts on a single axis."""
    table = {name: ", ".join("-" * t.dim()) for name, t in named_tensors(model).items()}
    axes = table[tensor].split(", ")
    axes[dim] = "lone"
    return {**table, tensor: ", ".join(axes)}


def check(model: nn.Module, shape: tuple[int, ...], table: dict[str, str] | None = None) -> SpecCheck:
    inputs = inputs_of(shape)
    spec = trace_spec(model, inputs) if table is None else table_spec(table, model)
    return check_spec(spec, model, inputs)


@pytest.fixture
def without_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the search for suggestions, which takes longer than the check."""
    monkeypatch.setattr(Adviser, "advice", lambda *_: [])


def right_table(model: nn.Module) -> dict[str, str]:
    """Return the table of a chain of dense and normalizing layers."""
    table, units = dict[str, str](), "-"
    layers = [(name, layer) for name, layer in model.named_children() if next(layer.parameters(), None) is not None]
    for name, layer in layers:
        outputs = "-" if name == layers[-1][0] else f"units{name}"
        if isinstance(layer, nn.Linear):
            table[f"{name}.weight"], units = f"{outputs}, {units}", outputs
        else:
            table[f"{name}.weight"] = units
        table[f"{name}.bias"] = units
    return table


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("blocks", [3, 4, 10])
def test_dead_units_under_random_statistics(blocks: int) -> None:
    model = dying(blocks)
    assert check(model, IMAGES).passed
    assert not check(model, IMAGES, lone_axis(model, "0.weight")).kept


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("value", [0, -1e10, float("-inf"), float("nan")])
def test_masked_outputs(value: float) -> None:
    model = masked(value)
    assert check(model, ROWS).passed
    assert not check(model, ROWS, lone_axis(model, "a.weight")).kept


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("tensor", ["a.weight", "c.weight"])
def test_outputs_of_different_magnitudes(tensor: str) -> None:
    model = two_heads()
    assert check(model, ROWS).passed
    assert not check(model, ROWS, lone_axis(model, tensor)).kept


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize(
    ("activation", "norm"),
    [(nn.ReLU, True), (nn.GELU, True), (nn.Tanh, True), (nn.Sigmoid, False), (nn.Softsign, False)],
)
def test_error_is_detected_through_thirty_layers(activation: type[nn.Module], *, norm: bool) -> None:
    model = deep(activation, norm=norm)
    assert check(model, ROWS, right_table(model)).passed
    assert not check(model, ROWS, lone_axis(model, "0.weight")).kept


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("batch", [1, 16])
def test_wrong_table_does_not_pass_if_outputs_can_be_zero(batch: int) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1), nn.ReLU())
    inputs = torch.randn(batch, 5, generator=torch.Generator().manual_seed(0))
    wrong, right = table_spec(lone_axis(model, "0.weight"), model), trace_spec(model, inputs)
    for seed in range(12):
        assert not check_spec(wrong, model, inputs, generator=torch.Generator().manual_seed(seed)).passed
        assert check_spec(right, model, inputs, generator=torch.Generator().manual_seed(seed)).passed


def test_unused_tensors_are_untested() -> None:
    model = Net(lambda net, x: net.b(net.a(x).relu()) if len(x) else x, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    model.aside = nn.Linear(8, 2)
    table = {"a.weight": "h, -", "a.bias": "h", "b.weight": "-, h", "b.bias": "-", "aside.weight": "-, h"}
    found = check(model, ROWS, {**table, "aside.bias": "-"})
    assert found.kept
    assert not found.passed
    assert dict(found.untested) == {"aside.weight": "not used by the model on these inputs"}
    found.require(allow_untested=True)
    with pytest.raises(SpecError, match="not verified for all tensors") as error:
        found.require()
    assert "untested, not used by the model on these inputs: `aside.weight`" in str(error.value)


def test_network_with_constant_outputs_is_untested() -> None:
    model = Net(lambda net, x: net.b((net.a(x).tanh() - 2).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    found = check(model, ROWS, lone_axis(model, "a.weight"))
    assert found.kept
    assert set(found.untested) == {"a.weight", "a.bias", "b.weight"}


def test_key_bias_before_a_softmax_is_inert_and_passes() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.q(x), net.k(x), net.v(x)
        output: Tensor = net.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)
        return output

    model = Net(forward, q=nn.Linear(3, 6), k=nn.Linear(3, 6), v=nn.Linear(3, 6), out=nn.Linear(6, 2))
    found = check(model, TOKENS)
    assert found.passed
    assert found.inert == ("k.bias",)
    # The function does not depend on it, so both axes are correct.
    axes = trace_spec(model, inputs_of(TOKENS)).layout.as_json()["axes"]
    assert check(model, TOKENS, {**axes, "k.bias": "-"}).passed


def sampled(kind: str) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        z = net.mean(net.a(x).relu())
        match kind:
            case "like":
                z += torch.randn_like(z)
            case "dropout":
                z = functional.dropout(z, 0.5, training=True)
            case "gumbel":
                z = functional.gumbel_softmax(z)
            case "shape":
                z += torch.randn(z.shape, dtype=z.dtype)
            case _:
                z += random.random()
        output: Tensor = net.b(z)
        return output

    return Net(forward, a=nn.Linear(5, 8), mean=nn.Linear(8, 6), b=nn.Linear(6, 3))


SAMPLED = {
    "a.weight": "h, -",
    "a.bias": "h",
    "mean.weight": "z, h",
    "mean.bias": "z",
    "b.weight": "-, z",
    "b.bias": "-",
}


@pytest.mark.parametrize("kind", ["like", "dropout", "gumbel"])
def test_noise_is_permuted_with_its_units(kind: str) -> None:
    model = sampled(kind)
    assert check(model, ROWS, SAMPLED).passed
    found = check(model, ROWS, {**SAMPLED, "mean.bias": "-"})
    assert not found.kept
    assert "'z': `mean.bias`, axis 0: should belong to the group" in found.suggestions
    state = torch.get_rng_state()
    check(model, ROWS, SAMPLED)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["shape", "python"])
def test_noise_without_units_raises(kind: str) -> None:
    model = sampled(kind)
    found = check(model, ROWS, SAMPLED)
    assert not found.passed
    assert "random in evaluation mode" in found.reason
    assert not found.failing_groups
    with pytest.raises(SpecError, match="outputs are random"):
        found.require(allow_untested=True)


@pytest.mark.parametrize("kind", ["log", "cholesky"])
def test_parameters_with_constraints(kind: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.a(x)
        h = (h * (net.p - 1).log()).tanh() if kind == "log" else h @ torch.linalg.cholesky(net.p)
        output: Tensor = net.b(h)
        return output

    value = torch.rand(8) + 1.1 if kind == "log" else 2 * torch.eye(8) + 0.1
    model = Net(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3), p=nn.Parameter(value))
    assert check(model, ROWS).kept
    assert not check(model, ROWS, lone_axis(model, "a.weight")).kept


@pytest.mark.parametrize("zero", [False, True])
def test_complex_parameters_are_checked_in_complex128(*, zero: bool) -> None:
    model = spectral(zero=zero)
    table = {
        "weight": "h, o, -", "first.weight": "h, -", "first.bias": "h", "last.weight": "-, o", "last.bias": "-",
    }  # fmt: skip
    found = check(model, TOKENS, table)
    assert found.passed
    assert found.error < 1e-13
    wrong = check(model, TOKENS, {**table, "weight": "h, -, -"})
    assert wrong.suggestions == ("'o': `weight`, axis 1: should belong to the group",)


def test_grouped_products_without_float64_support() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.e(x)
        weight, expert = net.gate(x).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        offsets = torch.bincount(expert, minlength=4).cumsum(0).to(torch.int32)
        hidden = torch._grouped_mm(x[order], net.up, offs=offsets).relu()
        mixed = torch._grouped_mm(hidden, net.down, offs=offsets)
        output: Tensor = net.last(x + torch.zeros_like(mixed).index_copy(0, order, mixed) * weight[:, None])
        return output

    model = Net(
        forward, e=nn.Linear(8, 8), gate=nn.Linear(8, 4), last=nn.Linear(8, 3),
        up=nn.Parameter(torch.randn(4, 8, 16)), down=nn.Parameter(torch.randn(4, 16, 8)),
    )  # fmt: skip
    table = {
        "gate.weight": "E, s", "gate.bias": "E", "up": "E, s, f@E", "down": "E, f@E, s",
        "e.weight": "s, -", "e.bias": "s", "last.weight": "-, s", "last.bias": "-",
    }  # fmt: skip
    right = check_spec(table_spec(table, model), model, torch.randn(16, 8))
    assert right.passed, right
    wrong = check_spec(table_spec({**table, "gate.bias": "-"}, model), model, torch.randn(16, 8))
    assert "'E': `gate.bias`, axis 0: should belong to the group" in wrong.suggestions


def test_fake_quantization_without_float64_support() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        zero = torch.zeros(8, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(net.a.weight, net.scale.abs(), zero, 0, -128, 127)
        output: Tensor = net.b(functional.linear(x, weight, net.a.bias).relu())
        return output

    model = Net(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3), scale=nn.Parameter(torch.full((8,), 0.01)))
    table = {"a.weight": "h, -", "a.bias": "h", "b.weight": "-, h", "b.bias": "-", "scale": "h"}
    assert check(model, ROWS, table).passed
    assert check(model, ROWS, {**table, "scale": "-"}).suggestions == (
        "'h': `scale`, axis 0: should belong to the group",
    )


def test_float32_only_operator_runs_in_float32() -> None:
    @torch.library.custom_op("check_tests::single", mutates_args=())
    def single(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            message = "expected Float"
            raise RuntimeError(message)
        return x.sin()

    assert single is not None
    model = Net(lambda net, x: net.b(torch.ops.check_tests.single(net.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    table = {"a.weight": "h, -", "a.bias": "h", "b.weight": "-, h", "b.bias": "-"}
    assert check(model, ROWS, table).passed
    assert not check(model, ROWS, {**table, "a.bias": "-"}).kept


def test_parallel_model_is_unwrapped() -> None:
    inner = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    spec = trace_spec(inner, inputs_of(ROWS))
    assert check_spec(spec, nn.DataParallel(inner), inputs_of(ROWS)).passed


def test_model_that_cannot_be_run_raises_with_the_reason() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    spec = trace_spec(model, inputs_of(ROWS))
    with pytest.raises(SpecError, match="cannot run the model on the example inputs: RuntimeError"):
        check_spec(spec, model, torch.randn(4, 7))


def test_bias_before_a_normalization_is_inert() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    found = check(model, IMAGES)
    assert found.passed
    assert found.inert == ("1.bias",)


class Forces(nn.Module):
    """The negative gradient of a potential (interatomic forces), without `torch.enable_grad` inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.last(self.first(x).tanh()).sum(), x, create_graph=True)
        return -gradient


def test_models_that_compute_gradients_inside_are_checked() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    model = Forces()
    right = {"first.weight": "h, 3", "first.bias": "h", "last.weight": "1, h", "last.bias": "1"}
    assert check_spec(table_spec(right, model), model, x).passed
    for name, axes in (("first.bias", "5"), ("last.weight", "1, 5")):
        wrong = table_spec({**right, name: axes}, model)
        assert not check_spec(wrong, model, x).kept, name
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
