"""Constants whose values decide which axes are free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from rebasin_core import check_spec, trace_spec
from rebasin_core.specs.tracing.constants import refined
from rebasin_core.specs.unification.terms import fresh, has_uniform
from tests.specs.tracing.graphs import Graph, axes, between, constant

if TYPE_CHECKING:
    from rebasin_core.specs.tracing.capture import Method

ROWS = torch.randn(6, 3)
METHODS: list[Method] = ["export", "execution"]


def _is_uniform(values: Tensor) -> bool:
    return has_uniform(refined((fresh(len(values)),), values)[0])


DTYPES = [torch.bool, torch.uint8, torch.int16, torch.uint32, torch.bfloat16, torch.float8_e5m2, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_of_every_dtype_are_compared(dtype: torch.dtype) -> None:
    assert _is_uniform(torch.ones(4).to(dtype))
    assert not _is_uniform(torch.tensor([1, 0, 1, 1]).to(dtype))


def test_zeros_of_different_signs_are_different() -> None:
    signs = torch.tensor([0.0, -0.0, 0.0, 0.0])
    assert _is_uniform(signs.abs())
    assert _is_uniform(-signs.abs())
    assert not _is_uniform(signs)
    assert not _is_uniform(torch.complex(torch.ones(4), signs))


@pytest.mark.parametrize("method", METHODS)
def test_signs_of_zeros_fix_the_axis(method: Method) -> None:
    model = between(lambda _, h: torch.copysign(h, torch.tensor([0.0, -0.0, 0.0, -0.0])))
    spec = trace_spec(model, ROWS, method=method)
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["first.weight"] == "4, 3"


@pytest.mark.parametrize("method", METHODS)
def test_literals_in_the_code_of_a_model_are_known(method: Method) -> None:
    model = between(lambda _, h: h * torch.tensor([1.0, 1.0, 1.0, 1.0]).tanh())
    spec = trace_spec(model, ROWS, method=method)
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["first.weight"] == "first, 3"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("persistent", [True, False])
def test_sparse_constants_are_fixed(method: Method, *, persistent: bool) -> None:
    adjacency = torch.eye(4).to_sparse()
    model = Graph(
        lambda net, x: net.last(torch.sparse.mm(net.first.adjacency, net.first(x).T).T),
        first=constant(nn.Linear(3, 4), "adjacency", adjacency, persistent=persistent),
        last=nn.Linear(4, 2),
    )
    assert axes(trace_spec(model, ROWS, method=method))["first.weight"] == "4, 3"
