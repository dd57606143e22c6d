"""Routing to experts by position: the traced group is compared with an enumeration of the permutations of experts."""

from __future__ import annotations

from itertools import permutations
from math import factorial, log10
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.symmetry import Kind, SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Callable

EXPERTS = 4


class Routed(nn.Module):
    """Four experts (a matrix and a bias each), a gate, and a function that routes tokens."""

    def __init__(self, route: Callable[..., Tensor]) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.gate = nn.Linear(5, EXPERTS)
        self.matrix = nn.Parameter(torch.randn(EXPERTS, 5, 2))
        self.bias = nn.Parameter(torch.randn(EXPERTS, 2))
        self.route = route
        nn.init.normal_(self.gate.weight, std=3.0)  # tokens are routed to different experts

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        output: Tensor = self.route(self, h, self.gate(h).softmax(-1))
        return output

    def looked_up(self, h: Tensor, chosen: Tensor) -> Tensor:
        """Return the outputs of one expert per token."""
        return torch.einsum("nh,nho->no", h, self.matrix[chosen]) + self.bias[chosen]

    def all_of(self, h: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs of all experts, summed by gates."""
        return torch.einsum("ne,nh,eho->no", gates, h, self.matrix) + gates @ self.bias


def num_symmetries(route: Callable[..., Tensor], x: Tensor) -> int:
    """Return how many of the 24 permutations of experts and gate rows preserve the function."""
    model = Routed(route).double()
    state, expected = {name: value.clone() for name, value in model.state_dict().items()}, model(x)
    count = 0
    for order in permutations(range(EXPERTS)):
        names = ("gate.weight", "gate.bias", "matrix", "bias")
        model.load_state_dict({**state, **{name: state[name][list(order)] for name in names}})
        count += torch.allclose(model(x), expected, atol=1e-9)
    return count


def topk_and_gather(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    best, chosen = p.topk(2, -1)
    every = torch.einsum("nh,eho->neo", h, net.matrix) + net.bias
    return (every.gather(1, chosen[..., None].expand(-1, -1, 2)) * best[..., None]).sum(1)


def topk_and_lookup(net: Routed, h: Tensor, p: Tensor, *, in_order: bool = True) -> Tensor:
    best, chosen = p.topk(2, -1, sorted=in_order)
    each = torch.einsum("nh,nkho->nko", h, net.matrix[chosen]) + functional.embedding(chosen, net.bias)
    return (each * (best / best.sum(-1, keepdim=True))[..., None]).sum(1)


def scattered(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    best, chosen = p.topk(2, -1)
    return net.all_of(h, torch.zeros_like(p).scatter(1, chosen, best))


def scattered_in_place(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    gates = torch.zeros_like(p)
    gates.scatter_(1, p.topk(2, -1, sorted=False)[1], 1.0)
    return net.all_of(h, p.masked_fill(~gates.bool(), float("-inf")).softmax(-1))


def one_hot(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    best, chosen = p.topk(2, -1)
    return net.all_of(h, (functional.one_hot(chosen, EXPERTS) * best[..., None]).sum(1))


def compared_with_a_range(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    best, chosen = p.sort(-1, descending=True)
    return net.all_of(h, ((chosen[:, :2, None] == torch.arange(EXPERTS)) * best[:, :2, None]).sum(1))


def switch(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    best, chosen = p.max(-1)
    return net.looked_up(h, chosen) * best[:, None] - net.looked_up(h, p.argsort(-1)[:, 0])


def sorted_tokens(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    ids, order = p.argmax(-1).sort()
    found = net.looked_up(h[order], ids)
    return torch.zeros_like(found).index_add(0, order, found)


def sorted_tokens_with_inverse(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    _, chosen = p.topk(2, -1)
    ids, order = chosen.flatten().sort()
    found = net.looked_up(h[order // 2], ids) * p.gather(1, chosen).flatten()[order, None]
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return found[inverse].view(-1, 2, 2).sum(1)


def sorted_twice(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    ids = p.argmax(-1)
    order = ids.argsort()
    return net.looked_up(h[order], ids[order])[order.argsort()]


SYMMETRIC: list[Callable[..., Tensor]] = [
    topk_and_gather,
    topk_and_lookup,
    lambda *args: topk_and_lookup(*args, in_order=False),
    scattered,
    scattered_in_place,
    one_hot,
    compared_with_a_range,
    switch,
    sorted_tokens,
    sorted_tokens_with_inverse,
    sorted_twice,
    lambda net, h, p: net.looked_up(h, p.topk(2, -1)[1][:, 1]),
    lambda net, h, p: net.looked_up(h, p.argmin(-1)) * p.gather(1, p.argmin(-1, keepdim=True)),
    lambda net, h, p: torch.index_select(net.bias, 0, p.argmax(-1)) + net.looked_up(h, p.argmax(-1)),
]


@pytest.mark.parametrize("route", SYMMETRIC)
def test_experts_are_permuted_with_their_gate_rows(route: Callable[..., Tensor]) -> None:
    x = torch.randn(40, 3)  # enough tokens for every expert
    model = Routed(route)
    spec = trace_spec(model, x)
    assert num_symmetries(route, x.double()) == factorial(EXPERTS)
    assert check_spec(spec, model, x).passed
    axes = spec.layout.as_json()["axes"]
    (experts,) = {axes[name].split(", ")[0] for name in ("gate.weight", "gate.bias", "matrix")}
    assert spec.groups[experts].size == EXPERTS
    assert spec.layout.log10_order == pytest.approx(log10(factorial(EXPERTS) * factorial(5)))


def positions_as_values(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    chosen = p.topk(2, -1)[1]
    return net.looked_up(h, chosen[:, 0]) + chosen


def positions_returned(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    return p.topk(2, -1)[1] + 0 * net.looked_up(h, p.argmax(-1))


def next_expert(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    return net.looked_up(h, (p.argmax(-1) + 1) % EXPERTS)


def compared_by_size(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    return net.all_of(h, (p.argmax(-1)[:, None] < torch.arange(EXPERTS)).to(h.dtype))


def equal_scores(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    return net.looked_up(h, (p - 2).relu().argmax(-1))


def equal_products(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    return net.looked_up(h, (p * (p > 2).to(p.dtype)).argmax(-1))


def cumulative_counts(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    counts = torch.bincount(p.topk(2, -1)[1].flatten(), minlength=EXPERTS).cumsum(0)
    return (counts[:, None] * net.bias).sum(0) + h[:, :2]


def sorted_without_inverse(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    ids, _ = p.argmax(-1).sort()
    return net.looked_up(h, ids)


def an_overwritten_choice(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    chosen = p.topk(2, -1)[1]
    chosen[:, 1] = 0
    return net.looked_up(h, chosen[:, 0]) + net.looked_up(h, chosen[:, 1])


def last_write_wins(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    ids, order = p.argmax(-1).sort()
    written = torch.zeros(EXPERTS, 2, dtype=h.dtype).index_copy(0, p.argmax(-1), h[:, :2])
    return net.looked_up(h, p.argmax(-1)) + written.cumsum(0)[:1] + 0 * (ids + order)[:, None]


def read_by_python(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    chosen = int(p.sum(0).argmax())
    return h @ net.matrix[chosen] * (1 + chosen)


@pytest.mark.parametrize(
    "route",
    [
        positions_as_values,
        positions_returned,
        next_expert,
        compared_by_size,
        equal_scores,
        equal_products,
        cumulative_counts,
        sorted_without_inverse,
        an_overwritten_choice,
        last_write_wins,
        read_by_python,
    ],
)
def test_positions_used_as_integers_fix_the_experts(route: Callable[..., Tensor]) -> None:
    x = torch.randn(16, 3)
    spec = trace_spec(Routed(route), x)
    assert num_symmetries(route, x.double()) < factorial(EXPERTS)
    assert spec.layout.as_json()["axes"]["gate.weight"].split(", ")[0] == str(EXPERTS)


class Grouped(nn.Module):
    """Two-layer experts with grouped products, as in `transformers`; the compiled kernel requires these sizes."""

    def __init__(self, *, shuffled: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(8, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 16, 8))
        self.offset = nn.Parameter(torch.randn(EXPERTS, 16))
        self.down = nn.Parameter(torch.randn(EXPERTS, 8, 16))
        self.shuffled = shuffled

    @override
    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.gate(x).softmax(-1).topk(2, -1)
        ids, order = chosen.flatten().sort()
        counts = torch.histc((ids.flip(0) if self.shuffled else ids).float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
        bounds = counts.cumsum(0, dtype=torch.int32)
        h = functional.grouped_mm(x[order // 2], self.up.transpose(1, 2), offs=bounds) + self.offset[ids]
        out = functional.grouped_mm(h.tanh(), self.down.transpose(1, 2), offs=bounds) * best.flatten()[order, None]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        result: Tensor = out[inverse].view(-1, 2, 8).sum(1)
        return result


def test_hidden_units_are_permuted_within_each_expert() -> None:
    model, x = Grouped(), torch.randn(6, 8)
    spec = trace_spec(model, x)
    axes = spec.layout.as_json()["axes"]
    inner = axes["offset"].split(", ")[1]
    assert axes["up"] == f"up, {inner}, 8"
    assert axes["down"] == f"up, 8, {inner}"
    assert inner.endswith("@up")
    assert spec.layout.log10_order == pytest.approx(log10(factorial(4)) + 4 * log10(factorial(16)))
    permuted = spec.random_permutation(generator=torch.Generator().manual_seed(0)).apply(dict(model.named_parameters()))
    assert not torch.equal(permuted["down"], model.down)
    torch.testing.assert_close(torch.func.functional_call(model, permuted, (x,)), model(x), rtol=1e-4, atol=1e-4)


def test_segments_of_other_positions_fix_all_axes() -> None:
    spec = trace_spec(Grouped(shuffled=True), torch.randn(6, 8))
    assert not spec.groups


def test_unsorted_lookups_share_the_hidden_units_of_experts() -> None:
    def route(net: Routed, h: Tensor, p: Tensor) -> Tensor:
        chosen = p.topk(2, -1)[1]
        return (net.looked_up(h, chosen[:, 0]) * net.looked_up(h, chosen[:, 1])).sum(1, keepdim=True)

    torch.manual_seed(0)  # the check also tries saturated gates, whose ties the order of the experts breaks
    model, x = Routed(route), torch.randn(40, 3)
    spec = trace_spec(model, x)
    assert check_spec(spec, model, x).passed
    assert spec.layout.as_json()["axes"]["bias"] == "matrix, matrix.3"
    assert all(group.within is None for group in spec.groups.values())


class _Arranged(nn.Module):
    """A dense layer scaled by a table in the order of scores; the positions are converted to another dtype."""

    def __init__(self, size: int, convert: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.scores = nn.Parameter(torch.randn(size))
        self.table = nn.Parameter(torch.randn(size))
        self.weights = nn.Parameter(torch.randn(size))
        self.convert = convert

    @override
    def forward(self, x: Tensor) -> Tensor:
        arranged = self.table[self.convert(self.scores.argsort()).long()]
        output: Tensor = self.dense(x) * (arranged * self.weights).sum()
        return output


@pytest.mark.parametrize(
    ("dtype", "exact", "inexact"), [(torch.bfloat16, 257, 299), (torch.float16, 2049, 2101), (torch.int16, 299, None)]
)
def test_positions_survive_conversion_only_to_dtypes_that_hold_the_last_one(
    dtype: torch.dtype, exact: int, inexact: int | None
) -> None:
    for size in (exact, inexact):
        if size is None:
            continue
        model, x = _Arranged(size, lambda found: found.to(dtype)), torch.randn(2, 3)
        spec = trace_spec(model, x)
        assert spec.layout.as_json()["axes"]["table"] == ("scores" if size == exact else str(size))
        permuted = spec.random_permutation(generator=torch.Generator().manual_seed(0)).apply(
            dict(model.named_parameters())
        )
        torch.testing.assert_close(torch.func.functional_call(model, permuted, (x,)), model(x))


@pytest.mark.parametrize(
    "convert",
    [
        lambda found: torch.arange(len(found), dtype=torch.int8),  # 128 and larger numbers overflow
        lambda found: found.int().view(torch.float32),  # the same bits represent other numbers
        lambda found: found.bool(),
    ],
)
def test_converted_positions_that_are_other_numbers_fix_the_axis(convert: Callable[[Tensor], Tensor]) -> None:
    model, x = _Arranged(299, convert), torch.randn(2, 3)
    spec = trace_spec(model, x)
    check_spec(spec, model, x).require(allow_untested=True)
    assert spec.layout.as_json()["axes"]["table"] == "299"


class Stream(nn.Module):
    """Experts on a stream that is only read and written by matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.experts, self.head = nn.Linear(3, 8), Grouped(), nn.Linear(8, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        output: Tensor = self.head(x + self.experts(x))
        return output


def test_routed_tokens_are_transformed_linearly() -> None:
    model, x = Stream(), torch.randn(6, 3)
    symmetry = trace_spec(model, x).symmetry
    stream, hidden = symmetry.linear
    assert (stream.kind, hidden.kind) == (Kind.INVERTIBLE, Kind.SIGN)
    assert {slot.tensor: degree for slot, degree in stream.degrees.items()} == {
        "embed.weight": 1,
        "embed.bias": 1,
        "experts.gate.weight": -1,
        "experts.up": -1,
        "experts.down": 1,
        "head.weight": -1,
    }
    assert {slot.tensor for slot in hidden.degrees} == {"experts.up", "experts.offset", "experts.down"}
    assert symmetry.layout.index_shape(hidden.group) == (EXPERTS, 16)
    values = dict(model.named_parameters())
    drawn = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(0))
    found = torch.func.functional_call(model, drawn.apply(values), (x,))
    torch.testing.assert_close(found, model(x), rtol=1e-3, atol=1e-4)  # float32, for which the kernel is compiled
