"""A suggestion names all axes to change together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_core import check_spec, table_spec, trace_spec
from rebasin_core.specs.checking import advice
from tests.specs.checking.networks import Net


def bottlenecks() -> nn.Module:
    """Two bottleneck blocks, the first with a convolution on its shortcut: the residual group acts on ten tensors."""

    def block(net: Any, number: int, x: Tensor) -> Tensor:
        for layer in (1, 2, 3):
            x = getattr(net, f"norm{number}{layer}")(getattr(net, f"conv{number}{layer}")(x))
            x = x.relu() if layer < 3 else x
        return x

    def forward(net: Any, x: Tensor) -> Tensor:
        h = (block(net, 1, x) + net.norm0(net.conv0(x))).relu()
        h = (block(net, 2, h) + h).relu()
        output: Tensor = net.last(h.mean((2, 3)))
        return output

    layers: dict[str, nn.Module] = {"conv0": nn.Conv2d(3, 8, 1, bias=False), "norm0": nn.BatchNorm2d(8)}
    for number, width in ((1, 3), (2, 8)):
        for layer, (inputs, outputs) in enumerate([(width, 4), (4, 4), (4, 8)], start=1):
            layers[f"conv{number}{layer}"] = nn.Conv2d(inputs, outputs, 1, bias=False)
            layers[f"norm{number}{layer}"] = nn.BatchNorm2d(outputs)
    return Net(forward, **layers, last=nn.Linear(8, 2))


FORGOTTEN = ("conv13.weight", "norm13.weight", "norm13.bias", "norm13.running_mean", "norm13.running_var")


def forgetful(model: nn.Module, inputs: Tensor) -> dict[str, str]:
    axes = dict(trace_spec(model, inputs).layout.as_json()["axes"])
    stream = axes["norm13.bias"]
    return {name: text.replace(stream, "8") if name in FORGOTTEN else text for name, text in axes.items()}


def test_tensors_omitted_from_a_group_are_named_together() -> None:
    model, inputs = bottlenecks(), torch.randn(2, 3, 4, 4)
    found = check_spec(table_spec(forgetful(model, inputs), model), model, inputs)
    (line,) = found.suggestions
    assert "change 5 axes together" in line
    assert all(f"`{name}`, axis 0: should belong to the group" in line for name in FORGOTTEN)


def test_changes_are_found_by_search_if_tracing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = bottlenecks(), torch.randn(2, 3, 4, 4)
    table = forgetful(model, inputs)

    def fail(*_: object, **__: object) -> None:
        message = "cannot be traced"
        raise RuntimeError(message)

    monkeypatch.setattr(advice, "derive", fail)
    (line,) = check_spec(table_spec(table, model), model, inputs).suggestions
    assert "change 5 axes together" in line
    assert all(f"`{name}`, axis 0: should belong to the group" in line for name in FORGOTTEN)
