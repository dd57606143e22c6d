from __future__ import annotations

import pytest
import torch
from torch import nn
from typing_extensions import override

from rebasin_core import check_spec, table_spec, trace_spec
from rebasin_core.errors import SpecError

TABLE = {"0.weight": "a, -", "0.bias": "a", "2.weight": "b, a", "2.bias": "b", "4.weight": "-, b", "4.bias": "-"}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Multi-head attention written with matrix products."""

    def __init__(self, heads: int, width: int, stream: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(stream, 3 * heads * width)
        self.out = nn.Linear(heads * width, stream)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (p.reshape(n, t, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        result: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, -1))
        return result


def test_correct_spec_passes() -> None:
    found = check_spec(table_spec(TABLE, mlp()), mlp(), inputs(6))
    assert found.passed
    assert found.error < 1e-12
    assert found.frozen == ("4.bias",)
    assert 10**found.log10_order == pytest.approx(120 * 24)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"4.weight": "-, -"}, "`4.weight`, axis 1: should belong to the group"),
        ({"2.bias": "-"}, "`2.bias`, axis 0: should belong to the group"),
        ({"4.weight": "c, b"}, "`4.weight`, axis 0: should not belong to the group"),
        (
            {"4.weight": "c, b", "4.bias": "c"},
            "change 2 axes together: `4.weight`, axis 0: should not belong to the group; `4.bias`, axis 0: should",
        ),
    ],
)
def test_wrong_axis_is_named(change: dict[str, str], advice: str) -> None:
    found = check_spec(table_spec({**TABLE, **change}, mlp()), mlp(), inputs(6))
    assert not found.passed
    assert any(advice in line for line in found.suggestions), found
    with pytest.raises(SpecError, match="does not preserve the function"):
        found.require()


def test_wrong_order_of_factors_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 16, 2))
    table = {"0.weight": "c, -, -, -", "0.bias": "c", "2.weight": "-, -*c", "2.bias": "-"}
    found = check_spec(table_spec(table, model), model, inputs(1, 6, 6))
    assert found.suggestions == ("'c': `2.weight`, axis 1: its factors should be in reverse order",)


def test_buffers_are_checked() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    right = {
        "0.weight": "a, -", "0.bias": "a", "1.weight": "a", "1.bias": "a", "1.running_mean": "a", "1.running_var": "a",
        "3.weight": "-, a", "3.bias": "-",
    }  # fmt: skip
    assert check_spec(table_spec(right, model), model, inputs(6)).passed
    wrong = check_spec(table_spec({**right, "1.running_var": "-"}, model), model, inputs(6))
    assert wrong.suggestions == ("'a': `1.running_var`, axis 0: should belong to the group",)


def test_nested_groups_of_attention() -> None:
    model = Attention(3, 4, 6)
    qkv = "h*w@h + h*w + h*v@h"
    right = {"qkv.weight": f"{qkv}, -", "qkv.bias": qkv, "out.weight": "-, h*v", "out.bias": "-"}
    spec = table_spec(right, model, sizes={"h": 3})
    assert check_spec(spec, model, inputs(5, 6)).passed
    # Published BERT specifications permute units across heads.
    mixed = {"qkv.weight": "a + a + v, -", "qkv.bias": "a + a + v", "out.weight": "-, v", "out.bias": "-"}
    found = check_spec(table_spec(mixed, model, sizes={"a": 12}), model, inputs(5, 6))
    assert not found.passed
    assert set(found.failing_groups) == {"a", "v"}


def test_spec_of_other_tensors_raises() -> None:
    with pytest.raises(SpecError, match="have different tensors"):
        check_spec(table_spec({"weight": "-, -", "bias": "-"}, nn.Linear(2, 2)), mlp(), inputs(6))


class Caching(nn.Module):
    """Caches a result and replaces one of its buffers, as some published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("positions", torch.zeros(1), persistent=False)
        self.kept: torch.Tensor | None = None

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.first.bias * 2
            self.positions = torch.arange(4.0)
        output: torch.Tensor = self.last(self.first(inputs) + self.kept)
        return output


def test_caching_model_is_run_without_state_and_not_changed() -> None:
    model = Caching()
    spec = trace_spec(model, torch.randn(2, 3))
    assert check_spec(spec, model, torch.randn(2, 3)).passed
    assert model.kept is None
    assert model.positions.shape == (1,)


class Fetching(nn.Module):
    """Reads its parameters by `get_parameter`, which accepts no other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("factor", torch.ones(2))

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = (inputs @ self.get_parameter("first.weight").T + self.first.get_parameter("bias")).tanh()
        output: torch.Tensor = self.last(hidden) * self.get_buffer("factor")
        return output


def test_models_that_fetch_parameters_by_name_are_checked() -> None:
    model = Fetching()
    table = {"first.weight": "a, -", "first.bias": "a", "last.weight": "-, a", "last.bias": "-", "factor": "-"}
    assert check_spec(table_spec(table, model), model, inputs(3)).passed
    wrong = check_spec(table_spec({**table, "first.bias": "-"}, model), model, inputs(3))
    assert list(wrong.failing_groups) == ["a"]
    assert "`first.bias`, axis 0: should belong to the group" in str(wrong)


def test_a_missing_parameter_is_the_error_of_the_model() -> None:
    class Absent(Fetching):
        @override
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ self.get_parameter("absent")

    table = dict.fromkeys(("first.bias", "last.bias", "factor"), "-") | dict.fromkeys(
        ("first.weight", "last.weight"), "-, -"
    )
    with pytest.raises(SpecError, match=r"cannot run the model on the example inputs: AttributeError: .*absent"):
        check_spec(table_spec(table, Absent()), Absent(), inputs(3))
