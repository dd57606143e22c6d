from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.evaluation.products import ProductWatch, WeightProduct, products_computed_once


class Written(nn.Module):
    """One hidden layer, each product written in its own way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.how = how
        shape = (7, 5) if how in {"linear", "transposed", "left", "t"} else (5, 7)
        self.first = nn.Parameter(torch.randn(shape, generator=generator))
        self.second = nn.Parameter(torch.randn(3, 7, generator=generator))

    @override
    def forward(self, x: Tensor) -> Tensor:
        w = self.first
        hidden = {
            "linear": lambda: nn.functional.linear(x, w),
            "transposed": lambda: x @ w.T,
            "t": lambda: torch.mm(x, torch.t(w)),
            "left": lambda: (w @ x.T).T,
            "right": lambda: x @ w,
            "addmm": lambda: torch.addmm(torch.zeros(7), x, w),
            "einsum": lambda: torch.einsum("bi,ih->bh", x, w),
        }[self.how]()
        return nn.functional.linear(hidden.relu_(), self.second)


@pytest.mark.parametrize("how", ["linear", "transposed", "t", "left", "right", "addmm", "einsum"])
def test_every_way_to_write_a_product_is_seen(how: str) -> None:
    model = Written(how)
    inputs = torch.randn(4, 5)
    tensors = dict(model.named_parameters())
    found = {p.name: p for p in products_computed_once(FunctionalModel(model), inputs, tensors)}
    assert list(found) == ["first", "second"]
    assert tensors["first"].shape[found["first"].axis] == 7
    outputs: dict[str, Tensor] = {}

    def keep(product: WeightProduct, output: Tensor) -> Tensor:
        outputs[product.name] = product.by_unit(output).clone()
        return output

    with ProductWatch(tensors, keep):
        model(inputs)
    expected = (inputs @ model.first if model.first.shape[0] == 5 else inputs @ model.first.T).T
    torch.testing.assert_close(outputs["first"], expected)


@pytest.mark.parametrize("matcher", ["activation", "gradient"])
@pytest.mark.parametrize("how", ["linear", "left", "right", "einsum"])
def test_parameters_without_modules_are_matched(how: str, matcher: str) -> None:
    model = Written(how)
    first = "h, -" if model.first.shape[0] == 7 else "-, h"
    spec = rc.table_spec({"first": first, "second": "-, h"}, model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    data = [(torch.randn(60, 5, generator=torch.Generator().manual_seed(2)), torch.arange(60) % 3)]
    found = rc.match(model, planted.apply(model), spec, matcher, task=rc.Task(model, data))
    assert found.permutation == planted.inverse()


def test_weights_that_are_used_twice_are_left_out() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.eye(4)), nn.Parameter(torch.eye(4))

        @override
        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.w) @ self.w.T @ self.v

    model = Tied()
    found = products_computed_once(FunctionalModel(model), torch.randn(2, 4), dict(model.named_parameters()))
    assert [p.name for p in found] == ["v"]
