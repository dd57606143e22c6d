"""Permuted and fixed buffers, and tensors with several names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.errors import SpecError
from tests.specs.tracing.graphs import Graph, axes, between, constant, parameter, traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs.tracing.capture import Method

ROWS = torch.randn(6, 3)


class _Scaled(nn.Module):
    """A layer whose features are scaled by a buffer."""

    scale: Tensor

    def __init__(self, *, persistent: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 8)
        self.register_buffer("scale", (torch.rand(8) + 0.5).to(dtype), persistent=persistent)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.dense(x).relu() * self.scale
        return output


class _FrozenNorm(nn.Module):
    """Batch normalization whose scale, shift and statistics are all buffers, as in torchvision and DETR."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    @override
    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


def test_pruning_masks_are_permuted_with_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    for layer, name in ((model[0], "weight"), (model[0], "bias"), (model[2], "weight")):
        prune.random_unstructured(layer, name, 0.3)
    found = axes(traced(model, ROWS))
    assert found["0.weight_orig"] == found["0.weight_mask"] == "units.0, 3"
    assert found["0.bias_mask"] == "units.0"
    assert found["2.weight_mask"] == "2, units.0"


def test_frozen_batch_normalizations_are_permuted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), _FrozenNorm(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 2))
    found = axes(traced(model, torch.randn(2, 3, 4, 4)))
    assert {found[f"1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")} == {"units.0"}
    fixed = trace_spec(model, torch.randn(2, 3, 4, 4), freeze=["1.*"])
    assert not fixed.groups


@pytest.mark.parametrize("method", ["export", "execution"])
@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ((4,), lambda buffer, h: h * buffer / torch.linalg.vector_norm(buffer)),
        ((4,), lambda buffer, h: h * functional.normalize(buffer, dim=0)),
        ((4, 1), lambda buffer, h: h * buffer.renorm(2, 0, 0.5)[:, 0]),
        ((4, 1), lambda buffer, h: h * torch._weight_norm(buffer, torch.ones(1, 1), 1)[:, 0]),
        ((4,), lambda buffer, h: functional.layer_norm(h, (4,), buffer)),
        ((4,), lambda buffer, h: functional.group_norm(h, 1, None, buffer)),
        ((4,), lambda buffer, h: functional.batch_norm(h, torch.zeros(4), torch.ones(4), buffer)),
        ((1, 1, 4), lambda buffer, h: h * functional.instance_norm(buffer)[0, 0]),
    ],
)
def test_constant_buffers_of_norms_are_fixed(
    shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor], method: Method
) -> None:
    model = between(lambda net, h: function(net.first.scale, h))
    constant(model.get_submodule("first"), "scale", torch.rand(shape) + 0.5)
    spec = trace_spec(model, ROWS, method=method)
    assert axes(spec)["first.bias"] == "4"
    assert axes(spec)["first.scale"] == ", ".join(map(str, shape))
    free = trace_spec(model, ROWS, method=method, free=["first.scale"])
    assert check_spec(free, model, ROWS).passed
    assert axes(free)["first.bias"] == "first"


aten = torch.ops.aten
BATCH_NORMALIZATIONS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda h, w, b, m, v: functional.batch_norm(h, m, v, w, b),
    "batch_norm with keywords": lambda h, w, b, m, v: aten.batch_norm(
        h, w, b, running_mean=m, running_var=v, training=False, momentum=0.1, eps=1e-5, cudnn_enabled=False
    ),
    "instance_norm": lambda h, w, b, m, v: functional.instance_norm(
        h[..., None], m, v, w, b, use_input_stats=False
    ).squeeze(-1),
    "native_batch_norm": lambda h, *own: aten.native_batch_norm(h, *own, False, 0.1, 1e-5)[0],  # ruff: ignore[boolean-positional-value-in-call] - a schema without keywords
    "legit": lambda h, *own: aten._native_batch_norm_legit(h, *own, False, 0.1, 1e-5)[0],  # ruff: ignore[boolean-positional-value-in-call]
    "functional": lambda h, *own: aten._native_batch_norm_legit_functional(h, *own, False, 0.1, 1e-5)[0],  # ruff: ignore[boolean-positional-value-in-call]
    "no training": lambda h, *own: aten._native_batch_norm_legit_no_training(h, *own, 0.1, 1e-5)[0],
    "no update": lambda h, *own: aten._batch_norm_no_update(h, *own, 0.1, 1e-5)[0],
    "without gradients": lambda h, w, b, m, v: torch.no_grad()(functional.batch_norm)(h, m, v, w, b),
}


@pytest.mark.parametrize("method", ["export", "execution"])
@pytest.mark.parametrize("name", BATCH_NORMALIZATIONS)
def test_running_statistics_of_every_batch_normalization_are_permuted(name: str, method: Method) -> None:
    function = BATCH_NORMALIZATIONS[name]
    model = between(
        lambda net, h: function(h, net.scale, net.shift, net.first.mean, net.first.variance),
        scale=parameter(4),
        shift=parameter(4),
    )
    for statistic in ("mean", "variance"):
        constant(model.get_submodule("first"), statistic, torch.rand(4) + 0.5)
    found = axes(traced(model, ROWS, method=method))
    assert found["first.mean"] == found["first.variance"] == found["first.bias"] == found["scale"] == "scale"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_buffer_named_in_free_is_permuted(dtype: torch.dtype) -> None:
    model = nn.Sequential(_Scaled(dtype=dtype), nn.Linear(8, 2))
    fixed = trace_spec(model, ROWS)
    assert not fixed.groups
    assert "to permute buffers that differ between trained models, name them in `free`" in str(fixed.coverage)
    spec = trace_spec(model, ROWS, free=["*.scale"])
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["0.scale"] == "units.0.dense"
    assert "`free`" not in str(spec.coverage)
    assert not trace_spec(model, ROWS, free=["*.scale"], freeze=["*.scale"]).groups


def test_free_patterns_without_a_saved_buffer_are_errors() -> None:
    model = nn.Sequential(_Scaled(persistent=False), nn.Linear(8, 2))
    with pytest.raises(SpecError, match=r"no parameter or buffer matches '0.scales' in `free`; did you mean '0.scale'"):
        trace_spec(model, ROWS, free=["0.scales"])
    with pytest.raises(SpecError, match=r"the buffer '0.scale', which the state dict does not contain"):
        trace_spec(model, ROWS, free=["0.scale"])
    with pytest.raises(SpecError, match=r"the parameter '1.weight'; parameters are free"):
        trace_spec(model, ROWS, free=["1.weight"])


class _Tied(nn.Module):
    """A small language model with one table, one layer used twice, and one mask in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.layer = nn.Linear(8, 8)
        self.same = self.layer
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight
        self.blocks = nn.ModuleList([nn.Module(), nn.Module()])
        shared = torch.rand(8) + 0.5
        for block in self.blocks:
            constant(block, "mask", shared)
        self.weights = nn.ParameterList([parameter(8), parameter(8)])
        self.again = self.weights[0]

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        h = self.same(self.layer(self.table(tokens)).relu()).relu() * self.weights[0] + self.again * self.weights[1]
        for block in self.blocks:
            h *= block.mask
        output: Tensor = self.head(h)
        return output


@pytest.mark.parametrize("method", ["auto", "export", "execution"])
def test_tensors_with_several_names(method: Method) -> None:
    model, tokens = _Tied(), torch.tensor([[1, 2, 9]])
    spec = trace_spec(model, tokens, method=method, free=["blocks.1.mask"])
    assert check_spec(spec, model, tokens).passed
    assert axes(spec)["table.weight"] == "10, again"
    assert axes(spec)["blocks.0.mask"] == "again"
    assert "head.weight" not in axes(spec)
    assert not trace_spec(model, tokens, method=method, freeze=["head.weight"], free=["*mask"]).groups
    state = model.state_dict()
    permuted = spec.random_permutation(generator=torch.Generator().manual_seed(2)).apply(dict(state))
    other = _Tied()
    other.load_state_dict({**state, **permuted})
    torch.testing.assert_close(other(tokens), model(tokens))
    assert not torch.equal(other.layer.weight, model.layer.weight)


def test_parametrized_weights_are_permuted() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 2))
    found = axes(traced(model, ROWS))
    assert found["0.parametrizations.weight.original1"] == "units.0, 3"
    assert found["2.weight"] == "2, units.0"


def test_buffers_created_by_the_first_run_are_supported() -> None:
    def forward(net: Graph, x: Tensor) -> Tensor:
        if not hasattr(net, "cache"):
            net.register_buffer("cache", torch.ones(8), persistent=False)
        return net.last(net.first(x).relu() * net.cache)  # type: ignore[operator,no-any-return]  # members of a Graph

    model = Graph(forward, first=nn.Linear(3, 8), last=nn.Linear(8, 2))
    assert trace_spec(model, ROWS).groups
    assert not hasattr(model, "cache")
