"""Small networks made of a function and named layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.specs import TracedSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs.tracing.capture import Method


Net: TypeAlias = Any
"""A `Graph` as its function sees it: the members depend on the test."""


class Graph(nn.Module):
    def __init__(self, function: Callable[..., Tensor], /, **members: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._function = function
        for name, member in members.items():
            setattr(self, name, member)

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(self, *inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def between(function: Callable[..., Tensor], outputs: int = 4, **members: nn.Module | nn.Parameter) -> Graph:
    """Return two dense layers with four hidden units, and a function of these units between them."""
    return Graph(
        lambda net, x, *more: net.last(function(net, net.first(x).tanh(), *more)),
        first=nn.Linear(3, 4),
        last=nn.Linear(outputs, 2),
        **members,
    )


def constant(module: nn.Module, name: str, value: Tensor, *, persistent: bool = True) -> nn.Module:
    module.register_buffer(name, value, persistent=persistent)
    return module


def traced(model: nn.Module, *inputs: Tensor, method: Method = "auto") -> TracedSpec:
    """Return the traced specification after verifying it."""
    spec = trace_spec(model, inputs, method=method)
    check = check_spec(spec, model, inputs)
    assert check.passed, f"{check}\n{axes(spec)}"
    assert not spec.coverage.without_rule
    return spec


def axes(spec: TracedSpec) -> dict[str, str]:
    found: dict[str, str] = spec.layout.as_json()["axes"]
    return found


def sizes(spec: TracedSpec) -> dict[str, int]:
    return {name: group.size for name, group in spec.groups.items()}


def expect(model: nn.Module, *inputs: Tensor, **expected: str) -> TracedSpec:
    """Trace, verify, and compare the axes of weights; a bias has the axis of the rows of its weight."""
    spec = traced(model, *inputs)
    found = {
        name.replace(".weight", "").replace(".", "_"): text for name, text in axes(spec).items() if "bias" not in name
    }
    assert {name: found[name] for name in expected} == expected, found
    for name, text in axes(spec).items():
        weight = axes(spec).get(name.replace("bias", "weight"))
        if name.endswith(".bias") and weight is not None and "ConvTranspose" not in str(model):
            assert text == weight.split(", ")[0]
    return spec
