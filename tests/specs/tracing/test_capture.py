"""Captured graphs: the method, uses of tensors outside the graph, and suppressed output."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.graphs import Graph, Net, axes, traced

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = torch.randn(6, 3)


def _two_layers(function: Callable[..., Any]) -> Graph:
    return Graph(function, first=nn.Linear(3, 8), last=nn.Linear(8, 2))


def _convolved(net: Net, x: Tensor, edges: Tensor) -> Net:
    """Return a graph convolution that removes self-loops with a mask, as torch_geometric does."""
    edges = edges[:, edges[0] != edges[1]]
    source, target = edges[0], edges[1]
    degree = torch.ones(len(x), dtype=x.dtype).index_add(0, target, torch.ones(len(target), dtype=x.dtype))
    h = net.first(x)
    summed = torch.zeros_like(h).index_add(0, target, h[source] / degree[source, None])
    return net.last((h + summed).relu())


def test_auto_records_a_graph_network() -> None:
    edges = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 2, 0, 4]])
    spec = traced(_two_layers(_convolved), ROWS, edges)
    assert axes(spec)["last.weight"] == "2, first"
    assert spec.coverage.captured.method == "execution"
    assert "traced by recording one execution because `torch.export` failed" in str(spec.coverage)


def test_a_causal_mask_given_as_a_tensor(capfd: pytest.CaptureFixture[str]) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = Graph(
        lambda net, x, mask: net.head(net.encoder(net.embed(x), mask=mask)),
        embed=nn.Linear(3, 8),
        encoder=encoder,
        head=nn.Linear(8, 2),
    )
    spec = traced(model, torch.randn(2, 5, 3), nn.Transformer.generate_square_subsequent_mask(5))
    assert axes(spec)["head.weight"] == "2, embed"
    printed = capfd.readouterr()
    assert not printed.out + printed.err


def test_output_of_the_exporter_is_suppressed_and_settings_are_restored(capfd: pytest.CaptureFixture[str]) -> None:
    def forward(net: Net, x: Tensor) -> Net:
        sys.stdout.write("printed by the model\n")
        return net.last(net.first(x).relu() * float(x.sum()))

    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before = [logger.disabled for logger in loggers]
    fast, stream = torch.backends.mha.get_fastpath_enabled(), sys.stderr
    traced(_two_layers(forward), ROWS)
    printed = capfd.readouterr()
    assert set(printed.out.splitlines()) == {"printed by the model"}
    assert not printed.err
    assert [logger.disabled for logger in loggers] == before
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert sys.stderr is stream


def test_models_that_export_are_exported() -> None:
    spec = traced(_two_layers(lambda net, x: net.last(net.first(x).relu())), ROWS)
    assert spec.coverage.captured.method == "export"
    assert "execution" not in str(spec.coverage)


def test_auto_uses_the_larger_group_if_export_lacks_a_rule() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.first(x).relu()
        return net.last(torch.linalg.qr(h.T)[0].T if torch.compiler.is_exporting() else h)

    spec = trace_spec(_two_layers(forward), ROWS)
    assert axes(spec)["last.weight"] == "2, first"
    assert spec.coverage.captured.method == "execution"
    assert "the exported graph has operators without a rule" in spec.coverage.captured.why


@pytest.mark.parametrize(
    "read",
    [
        lambda weight: float(weight[0]),
        lambda weight: weight[1].item(),
        lambda weight: weight.tolist()[2],
        lambda weight: weight.detach().numpy()[3],
        lambda weight: torch.from_numpy(weight.detach().numpy())[0],
        lambda weight: 2.0 if weight[0] > weight[1] else 3.0,
        lambda weight: int(weight.argmax()) + 1.0,
    ],
)
def test_values_that_python_reads_are_outputs(read: Callable[[Tensor], float]) -> None:
    model = _two_layers(lambda net, x: net.last(net.first(x).relu() * read(net.first.bias)))
    spec = traced(model, ROWS, method="execution")
    assert spec.layout.log10_order < 4  # log10(8! / 2) = 4.3: at least one unit is fixed


def test_tensors_of_unknown_origin_are_fixed_even_if_their_values_are_equal() -> None:
    @dataclass
    class Batch:
        rows: Tensor

    model = Graph(lambda net, batch: net.last(batch.rows.relu()), last=nn.Linear(8, 2))
    spec = trace_spec(model, Batch(torch.ones(4, 8)))
    assert not spec.groups


def test_gradients_inside_a_model_are_recorded() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)

        @override
        def forward(self, positions: Tensor) -> Tensor:
            with torch.enable_grad():
                positions = positions.clone().requires_grad_()
                energy = self.last(self.first(positions).tanh()).sum()
                (force,) = torch.autograd.grad(energy, positions, create_graph=True)
            return force

    model = Force()
    spec = trace_spec(model, ROWS)
    assert axes(spec) == {
        "first.weight": "first, 3",
        "first.bias": "first",
        "last.weight": "1, first",
        "last.bias": "1",
    }
    permuted = spec.random_permutation(generator=torch.Generator().manual_seed(1)).apply(dict(model.state_dict()))
    other = Force()
    other.load_state_dict(permuted)
    assert not torch.equal(other.first.weight, model.first.weight)
    torch.testing.assert_close(other(ROWS), model(ROWS))


def test_tensors_in_dataclasses_and_objects_are_outputs() -> None:
    @dataclass
    class Output:
        scores: Tensor
        inner: object = None

    @dataclass(slots=True)
    class Holder:
        hidden: Tensor

    plain = _two_layers(lambda net, x: Output(net.last(net.first(x).relu())))
    assert axes(traced(plain, ROWS))["last.weight"] == "2, first"

    def forward(net: Net, x: Tensor) -> Output:
        h = net.first(x).relu()
        return Output(net.last(h), Holder(h))

    assert not traced(_two_layers(forward), ROWS).groups


def test_distributions_are_outputs() -> None:
    model = _two_layers(lambda net, x: torch.distributions.Categorical(logits=net.last(net.first(x).relu())))
    spec = trace_spec(model, ROWS)
    assert check_spec(spec, model, ROWS).passed
    assert axes(spec)["last.weight"] == "2, first"
