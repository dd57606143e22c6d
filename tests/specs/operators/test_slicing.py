"""Ranges whose bounds are tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.graphs import Net, axes, between, parameter

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = torch.randn(6, 3)


def _split(h: Tensor, bounds: Tensor) -> Tensor:
    return torch.cat([part.relu() * number for number, part in enumerate(torch.tensor_split(h, bounds, 1), 1)], 1)


def _narrowed(h: Tensor, start: Tensor) -> Tensor:
    return torch.narrow(h, 1, start, 2).repeat(1, 2)


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (lambda h: _split(h, torch.tensor([1, 3])), "1 + first + 1"),
        (lambda h: _narrowed(h, torch.tensor(-2)), "first + first.2"),
    ],
)
def test_constant_bounds_split_the_axis(function: Callable[[Tensor], Tensor], rows: str) -> None:
    model = between(lambda _, h: function(h))
    spec = trace_spec(model, ROWS, method="execution")
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["first.weight"] == f"{rows}, 3"
    assert not spec.coverage.without_rule


@pytest.mark.parametrize(
    ("function", "bounds"),
    [(_split, torch.tensor([1, 3])), (_narrowed, torch.tensor(1))],
)
def test_bounds_among_the_inputs_fix_the_axis(function: Callable[[Tensor, Tensor], Tensor], bounds: Tensor) -> None:
    model = between(lambda _, h, bounds: function(h, bounds))
    spec = trace_spec(model, (ROWS, bounds))
    assert check_spec(spec, model, (ROWS, bounds)).passed
    assert axes(spec)["first.weight"] == "4, 3"
    assert not spec.coverage.without_rule


def test_bounds_that_depend_on_parameters_fix_the_axis() -> None:
    def function(net: Net, h: Tensor) -> Tensor:
        return _split(h, net.scores.argmax()[None])

    model = between(function, scores=parameter(4))
    spec = trace_spec(model, ROWS, method="execution")
    check_spec(spec, model, ROWS).require(allow_untested=True)
    assert axes(spec)["first.weight"] == "4, 3"
