"""Dense, gated, recurrent and unusual networks; the expected groups were derived by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.errors import SpecError
from rebasin_core.specs.tracing.capture import Method
from tests.specs.tracing.graphs import Graph, Net, axes, constant, expect, parameter, sizes, traced

ROWS = torch.randn(2, 3)
TOKENS = torch.randn(2, 5, 3)
METHODS: tuple[Method, ...] = ("execution", "auto")


def _plain(function: Callable[[Tensor], Tensor], width: int, after: int) -> Graph:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last(function(net.first(x)))

    return Graph(forward, first=nn.Linear(3, width), last=nn.Linear(after, 2))


def test_residual_stream() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.stem(x)
        return net.last(h + net.down(net.up(h).relu()))

    model = Graph(forward, stem=nn.Linear(3, 4), up=nn.Linear(4, 6), down=nn.Linear(6, 4), last=nn.Linear(4, 2))
    expect(model, ROWS, up="up, stem", down="stem, up", last="2, stem")


def test_gated_units() -> None:
    def swiglu(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return functional.silu(gate) * up

    expect(_plain(swiglu, 12, 6), ROWS, first="first + first, 3", last="2, first")
    expect(_plain(functional.glu, 12, 6), ROWS, first="first + first, 3", last="2, first")
    interleaved = _plain(lambda x: x[:, ::2].sigmoid() * x[:, 1::2], 12, 6)
    expect(interleaved, ROWS, first="first*2, 3", last="2, first")


def test_parts_with_different_activations_are_different_groups() -> None:
    split = _plain(lambda x: torch.cat([x[:, :2].relu(), x[:, 2:].tanh()], 1), 6, 6)
    expect(split, ROWS, first="first + first.2, 3", last="2, first + first.2")


def test_an_axis_that_is_reshaped_back_is_one_group() -> None:
    model = _plain(lambda x: x.view(-1, 3, 4).relu().flatten(1), 12, 12)
    assert sizes(expect(model, ROWS, first="first, 3", last="2, first")) == {"first": 12}


def test_permutation_inside_each_unit_of_another_group() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last((net.first(x).view(-1, 3, 4).softmax(-1) * net.scale).flatten(1))

    model = Graph(forward, first=nn.Linear(3, 12), scale=parameter(3, 4), last=nn.Linear(12, 2))
    spec = expect(model, ROWS, scale="scale, scale.inner@scale", first="scale*scale.inner@scale, 3")
    assert spec.layout.index_shape("scale.inner") == (3, 4)


def test_a_scale_shared_by_all_units_ties_their_inner_axes() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last((net.first(x).view(-1, 3, 4).softmax(-1) * net.scale).flatten(1))

    model = Graph(forward, first=nn.Linear(3, 12), scale=parameter(4), last=nn.Linear(12, 2))
    spec = expect(model, ROWS, scale="scale", first="first*scale, 3")
    assert all(group.within is None for group in spec.groups.values())


def test_einsum_and_parameters_used_directly() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last(torch.einsum("ni,ihd->nhd", x, net.w).relu().flatten(1))

    model = Graph(forward, w=parameter(3, 4, 3), last=nn.Linear(12, 2))
    expect(model, ROWS, w="3, w, w.inner@w", last="2, w*w.inner@w")


def test_a_weight_used_twice_ties_its_rows_and_columns() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last(net.twice(net.twice(net.first(x)).relu()))

    model = Graph(forward, first=nn.Linear(3, 4), twice=nn.Linear(4, 4), last=nn.Linear(4, 2))
    expect(model, ROWS, first="first, 3", twice="first, first", last="2, first")


def test_tied_embedding_and_head() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        @override
        def forward(self, tokens: Tensor) -> Net:
            return self.head(self.hidden(self.embed(tokens)).relu())

    spec = traced(Model(), torch.randint(0, 7, (2, 3)))
    assert axes(spec) == {"embed.weight": "7, embed", "hidden.weight": "embed, embed", "hidden.bias": "embed"}
    assert any("looked up" in str(axis) for axis in spec.coverage.frozen)


def test_lstm_ties_gates_and_keeps_directions_apart() -> None:
    def forward(net: Net, tokens: Tensor) -> Net:
        _, (hidden, _) = net.lstm(net.embed(tokens))
        return net.last(torch.cat([hidden[-1], hidden[-2]], -1))

    lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    model = Graph(forward, embed=nn.Embedding(11, 4), lstm=lstm, last=nn.Linear(12, 2))
    found = axes(traced(model, torch.randint(0, 11, (2, 5))))
    assert found["lstm.weight_ih_l0"] == "lstm + lstm + lstm + lstm, embed"
    assert found["lstm.weight_hh_l0"] == "lstm + lstm + lstm + lstm, lstm"
    assert found["lstm.bias_hh_l0_reverse"] == "lstm.2 + lstm.2 + lstm.2 + lstm.2"
    assert found["lstm.weight_ih_l1"] == "lstm.3 + lstm.3 + lstm.3 + lstm.3, lstm + lstm.2"
    assert found["last.weight"] == "2, lstm.4 + lstm.3"


def test_projected_lstm_and_gru() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        return net.last(net.gru(net.lstm(x)[0])[1][-1])

    lstm, gru = nn.LSTM(3, 5, batch_first=True, proj_size=4), nn.GRU(4, 6, batch_first=True)
    found = axes(traced(Graph(forward, lstm=lstm, gru=gru, last=nn.Linear(6, 2)), TOKENS))
    assert found["lstm.weight_hr_l0"] == "lstm.2, lstm"
    assert found["lstm.weight_hh_l0"] == "lstm + lstm + lstm + lstm, lstm.2"
    assert found["gru.weight_ih_l0"] == "gru + gru + gru, lstm.2"
    assert found["last.weight"] == "2, gru"


def test_spectral_and_weight_norm_are_permuted_with_their_weights() -> None:
    parametrizations = torch.nn.utils.parametrizations
    first, second = parametrizations.spectral_norm(nn.Linear(3, 4)), parametrizations.weight_norm(nn.Linear(4, 5))
    found = axes(traced(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(5, 2)), ROWS))
    assert found["0.parametrizations.weight.0._u"] == "units.0"
    assert found["2.parametrizations.weight.original0"] == "units.2, 1"
    assert found["2.parametrizations.weight.original1"] == "units.2, units.0"


def test_constants_fix_axes_with_a_reason() -> None:
    model = _plain(lambda x: x, 6, 6)
    scaled = Graph(lambda net, x: net.last(net.first(x) * net.scale), first=nn.Linear(3, 6), last=nn.Linear(6, 2))
    constant(scaled, "scale", torch.arange(6.0))
    assert "first" in axes(traced(model, ROWS))["first.weight"]
    spec = traced(scaled, ROWS)
    assert axes(spec)["first.weight"] == "6, 3"
    assert "a buffer that training does not change" in str(spec.coverage)


def test_uniform_constants_impose_no_constraint() -> None:
    expect(_plain(lambda x: x * torch.full((6,), 0.5) + torch.ones(6), 6, 6), ROWS, first="first, 3")


def test_a_tensor_that_is_written_to_is_not_uniform() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        buffer = torch.zeros(x.shape[0], 6)
        buffer[:, :4] = net.first(x)
        return net.last(buffer)

    model = Graph(forward, first=nn.Linear(3, 4), last=nn.Linear(6, 2))
    spec = trace_spec(model, ROWS)
    assert axes(spec)["last.weight"].startswith("2, first")
    check = check_spec(spec, model, ROWS)
    assert check.kept
    assert [*check.untested] == ["last.weight (piece 2 of 2)"]  # it multiplies the rest of the buffer, which is zero


def test_unused_tensors_are_fixed() -> None:
    model = Graph(lambda net, x: net.last(x), last=nn.Linear(3, 2), unused=parameter(4, 4))
    spec = traced(model, ROWS)
    assert axes(spec)["unused"] == "4, 4"
    assert "never used" in str(spec.coverage)


def test_freeze_fixes_the_named_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    spec = trace_spec(model, ROWS, freeze=["2.*"])
    assert not spec.groups
    with pytest.raises(SpecError, match="matches"):
        trace_spec(model, ROWS, freeze=["3.weight"])


def test_operators_without_a_rule_fix_axes_and_are_reported() -> None:
    model = _plain(lambda x: torch.linalg.qr(x.view(-1, 2, 3))[1].flatten(1), 6, 6)
    spec = trace_spec(model, ROWS)
    assert axes(spec)["first.weight"] == "6, 3"
    assert spec.coverage.without_rule == {"aten.linalg_qr": 1}
    assert "no rule for aten.linalg_qr" in str(spec.coverage)
    assert check_spec(spec, model, ROWS).passed


def test_operators_without_a_rule_are_decomposed_and_reported() -> None:
    model = _plain(lambda x: torch.linalg.cross(x.view(-1, 2, 3), x.view(-1, 2, 3).tanh()).flatten(1), 6, 6)
    spec = expect(model, ROWS, first="first*3, 3", last="2, first*3")
    assert spec.coverage.decomposed == {"aten.linalg_cross": 1}
    assert "decomposed for lack of a rule: aten.linalg_cross" in str(spec.coverage)


def test_structured_inputs_and_outputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        @override
        def forward(self, pair: dict[str, Tensor], *, scale: Tensor) -> dict[str, Tensor]:
            hidden = self.a(pair["x"]).relu()
            return {"logits": self.b(hidden) * scale, "mean": hidden.mean()}

    model, inputs, kwargs = Model(), ({"x": ROWS},), {"scale": torch.tensor(2.0)}
    spec = trace_spec(model, inputs, kwargs=kwargs)
    assert axes(spec)["b.weight"] == "2, a"
    assert check_spec(spec, model, inputs, kwargs=kwargs).passed


def test_hidden_units_in_the_output_are_fixed() -> None:
    model = Graph(lambda net, x: torch.cat([net.b(h := net.a(x)), h], 1), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    spec = traced(model, ROWS)
    assert not spec.groups
    assert "fixed, model output" in str(spec.coverage)


def test_meta_device_allocates_nothing() -> None:
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Linear(3, 100_000), nn.ReLU(), nn.Linear(100_000, 100_000), nn.ReLU(), nn.Linear(100_000, 2)
        )
    spec = trace_spec(model, ROWS)
    assert list(sizes(spec).values()) == [100_000, 100_000]


def test_control_flow_that_depends_on_data_needs_an_execution() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.first(x).relu()
        if h.sum() > 1e9:
            h = h.flip(1)
        kept = h[h.sum(1) > -1.0]
        return net.last(kept)

    model = Graph(forward, first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    with pytest.raises(SpecError, match="method='execution'"):
        trace_spec(model, ROWS, method="export")
    for method in METHODS:
        spec = traced(model, ROWS, method=method)
        assert axes(spec)["last.weight"] == "2, first"


def test_errors_of_the_model_are_reported() -> None:
    with pytest.raises(SpecError, match=r"Linear cannot be run on the example inputs, .* shapes cannot be multiplied"):
        trace_spec(nn.Linear(3, 2), torch.randn(2, 5))


def test_a_contracted_axis_is_not_nested_in_the_other_axes() -> None:
    # Both factors have the axis of heads, but rows and columns of their product are different heads.
    model = _plain(lambda x: (x.view(-1, 4, 3) @ x.view(-1, 4, 3).transpose(1, 2)).flatten(1), 12, 16)
    spec = expect(model, ROWS, first="first*first.2, 3", last="2, first*first")
    assert all(group.within is None for group in spec.groups.values())
