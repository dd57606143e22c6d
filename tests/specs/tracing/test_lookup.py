"""Subscripts by integer tensors without dimensions: the graph of an execution contains only their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.graphs import Graph, Net, axes, between, parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs.tracing.capture import Method

ROWS = torch.randn(6, 3)


def _written(table: Tensor, task: Tensor, value: Tensor) -> Tensor:
    table = table.clone()
    table[task] = value
    return table


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
@pytest.mark.parametrize(
    "function",
    [
        lambda net, task: net.table[task],
        lambda net, task: net.table[..., task, :],
        lambda net, task: net.table[None, task, ..., None][0, :, 0],
        lambda net, task: net.table[True, task].sum(0),
        lambda net, task: net.table.T[[2, 3], task].repeat(2),
        lambda net, task: net.table.T.unflatten(0, (2, 2))[torch.eye(2).bool(), task].repeat(2),
        lambda net, task: (net.table > 0)[task],
        lambda net, task: _written(net.table, task, net.table[0]).sum(0),
    ],
)
def test_a_lookup_by_an_input_fixes_the_axis(function: Callable[[Net, Tensor], Tensor], dtype: torch.dtype) -> None:
    """A specification for one task must hold for every task."""
    task = torch.tensor(0, dtype=dtype)
    model = between(lambda net, h, task: h * function(net, task), table=parameter(4, 4))
    spec = trace_spec(model, (ROWS, task))
    check_spec(spec, model, (ROWS, task)).require(allow_untested=True)
    assert axes(spec)["table"].split(", ")[0] == "4"


def test_lookups_keep_the_symmetries_of_the_other_axes() -> None:
    model = between(
        lambda net, h, task: (h @ net.up[task]).relu() @ net.down[task], up=parameter(3, 4, 5), down=parameter(3, 5, 4)
    )
    spec = trace_spec(model, (ROWS, torch.tensor(0)))
    assert axes(spec)["up"] == "3, up, up.2"
    assert axes(spec)["down"] == "3, up.2, down"
    for task in range(3):
        assert check_spec(spec, model, (ROWS, torch.tensor(task))).passed


def test_a_lookup_by_a_computed_position_fixes_the_axis() -> None:
    model = between(lambda net, h: h * net.table[net.scores.argmax()], table=parameter(4), scores=parameter(4))
    spec = trace_spec(model, ROWS)
    check_spec(spec, model, ROWS).require(allow_untested=True)
    assert axes(spec)["table"] == axes(spec)["scores"] == "4"


@pytest.mark.parametrize("method", ["export", "execution"])
def test_a_constant_without_dimensions_selects_one_unit(method: Method) -> None:
    model = between(lambda _, h: h * h[:, torch.tensor(-2)][:, None])
    spec = trace_spec(model, ROWS, method=method)
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["first.weight"] == "first + 2, 3"


@pytest.mark.parametrize(
    "transformed",
    [
        lambda net, h, task: torch.vmap(lambda row: row * net.table[task])(h),
        lambda net, h, task: torch.func.grad(lambda value: (value * net.table[task]).pow(3).sum())(h),
    ],
)
def test_lookups_inside_function_transformations_fix_the_table(transformed: Callable[..., Tensor]) -> None:
    model = Graph(
        lambda net, x, task: net.last(transformed(net, net.first(x), task)),
        first=nn.Linear(3, 4),
        last=nn.Linear(4, 2),
        table=parameter(4, 4),
    )
    spec = trace_spec(model, (ROWS, torch.tensor(0)))
    assert axes(spec)["table"] == "4, 4"
