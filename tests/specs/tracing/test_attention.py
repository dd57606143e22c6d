"""Implementations of attention; the expected groups were derived by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.specs.tracing.graphs import Graph, Net, axes, constant, expect, parameter, sizes, traced

TOKENS = torch.randn(2, 5, 3)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("attend", [_mixed, _fused])
def test_heads_are_permuted_and_widths_within_each_head(attend: Callable[..., Tensor]) -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.stem(x)
        mixed = attend(*(_heads(layer(h), 4) for layer in (net.q, net.k, net.v)))
        return net.last(net.out(mixed) + h)

    layers = {name: nn.Linear(6, 12) for name in "qkv"}
    model = Graph(forward, stem=nn.Linear(3, 6), **layers, out=nn.Linear(12, 6), last=nn.Linear(6, 2))
    spec = expect(
        model,
        TOKENS,
        q="q*q.inner@q, stem",
        k="q*q.inner@q, stem",
        v="q*v.inner@q, stem",
        out="stem, q*v.inner@q",
        last="2, stem",
    )
    assert sizes(spec) == {"stem": 6, "q": 4, "q.inner": 3, "v.inner": 3}


def _repeated(x: Tensor) -> Tensor:
    return x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)


@pytest.mark.parametrize("repeat", [_repeated, lambda x: x.repeat_interleave(2, 1)])
def test_grouped_queries_are_permuted_within_the_head_of_their_key(repeat: Callable[[Tensor], Tensor]) -> None:
    def forward(net: Net, x: Tensor) -> Net:
        q, k, v = _heads(net.q(x), 4), _heads(net.k(x), 2), _heads(net.v(x), 2)
        return net.last(_mixed(q, repeat(k), repeat(v)))

    model = Graph(forward, q=nn.Linear(3, 12), k=nn.Linear(3, 6), v=nn.Linear(3, 6), last=nn.Linear(12, 2))
    spec = expect(
        model,
        TOKENS,
        q="q*q.inner@q*q.inner.2@q, 3",
        k="q*q.inner.2@q, 3",
        v="q*v.inner@q, 3",
        last="2, q*q.inner@q*v.inner@q",
    )
    assert sizes(spec) == {"q": 2, "q.inner": 2, "q.inner.2": 3, "v.inner": 3}


def test_grouped_queries_of_the_fused_kernel() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        q, k, v = _heads(net.q(x), 4), _heads(net.k(x), 2), _heads(net.v(x), 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return net.last(mixed.transpose(1, 2).flatten(2))

    model = Graph(forward, q=nn.Linear(3, 12), k=nn.Linear(3, 6), v=nn.Linear(3, 6), last=nn.Linear(12, 2))
    expect(model, TOKENS, q="q*q.inner@q*q.inner.2@q, 3", k="q*q.inner.2@q, 3", last="2, q*q.inner@q*v.inner@q")


def test_multihead_attention_module() -> None:
    class Encoder(nn.Sequential):
        pass

    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    spec = traced(Encoder(nn.Linear(3, 8), layer, nn.Linear(8, 2)), TOKENS)
    found = axes(spec)
    base = "units.1.self_attn"
    width = f"{base}*{base}.inner@{base}"
    assert found["1.self_attn.in_proj_weight"] == f"{width} + {width} + {base}*{base}.inner.2@{base}, units.0"
    assert found["1.self_attn.in_proj_bias"] == f"{width} + {width} + {base}*{base}.inner.2@{base}"
    assert found["1.self_attn.out_proj.weight"] == f"units.0, {base}*{base}.inner.2@{base}"
    assert found["1.linear1.weight"] == "units.1.linear1, units.0"
    assert found["1.norm1.weight"] == "units.0"


def test_relative_position_biases_are_permuted_with_their_heads() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        q, k, v = net.qkv(x).view(2, 5, 3, 4, 3).permute(2, 0, 3, 1, 4)
        bias = net.table[net.index.view(-1)].view(5, 5, 4).permute(2, 0, 1)
        mixed = ((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return net.last(mixed)

    model = Graph(forward, qkv=nn.Linear(3, 36), last=nn.Linear(12, 2), table=parameter(9, 4))
    constant(model, "index", torch.randint(0, 9, (5, 5)))
    expect(
        model,
        TOKENS,
        table="9, table",
        qkv="table*qkv.inner@table + table*qkv.inner@table + table*qkv.inner.2@table, 3",
        index="5, 5",
    )


@pytest.mark.parametrize("persistent", [False, True])
def test_only_dimensions_without_rotary_embedding_are_free(persistent: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
    def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotary, rest = x[..., :4], x[..., 4:]
        half = torch.cat([-rotary[..., 2:], rotary[..., :2]], -1)
        return torch.cat([rotary * cos + half * sin, rest], -1)

    def forward(net: Net, x: Tensor) -> Net:
        angles = torch.arange(5, dtype=x.dtype)[:, None] * net.frequencies
        angles = torch.cat([angles, angles], -1)
        q, k = (rotated(_heads(layer(x), 2), angles.cos(), angles.sin()) for layer in (net.q, net.k))
        return net.last(_mixed(q, k, _heads(net.v(x), 2)))

    model = Graph(forward, q=nn.Linear(3, 16), k=nn.Linear(3, 16), v=nn.Linear(3, 16), last=nn.Linear(16, 2))
    constant(model, "frequencies", torch.tensor([1.0, 0.1]), persistent=persistent)
    spec = expect(
        model,
        TOKENS,
        q="q*(4 + q.inner@q), 3",
        k="q*(4 + q.inner@q), 3",
        v="q*v.inner@q, 3",
        frequencies="2",
    )
    assert sizes(spec) == {"q": 2, "q.inner": 4, "v.inner": 8}


def test_norms_of_queries_tie_the_widths_of_all_heads() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        q, k, v = net.norm(_heads(net.q(x), 2)), net.norm(_heads(net.k(x), 2)), _heads(net.v(x), 2)
        return net.last(_mixed(q, k, v))

    layers = {name: nn.Linear(3, 8) for name in "qkv"}
    model = Graph(forward, norm=nn.RMSNorm(4), **layers, last=nn.Linear(8, 2))
    spec = expect(model, TOKENS, norm="norm", q="q*norm, 3", k="q*norm, 3", v="q*v.inner@q, 3")
    assert {name: group.within for name, group in spec.groups.items()} == {"norm": None, "q": None, "v.inner": "q"}


def test_constant_slopes_fix_the_heads_but_not_their_widths() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        q, k, v = (_heads(layer(x), 2) for layer in (net.q, net.k, net.v))
        scores = q @ k.transpose(-1, -2) + torch.tensor([0.5, 0.25])[:, None, None] * torch.arange(5.0)
        return net.last((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(3, 8) for name in "qkv"}
    expect(Graph(forward, **layers, last=nn.Linear(8, 2)), TOKENS, q="q + q.2, 3", k="q + q.2, 3", v="v + v.2, 3")


def test_cross_attention_and_masks() -> None:
    def forward(net: Net, x: Tensor, y: Tensor) -> Net:
        mask = torch.ones(5, 4, dtype=torch.bool).tril()
        q, k, v = _heads(net.q(x), 2), _heads(net.k(y), 2), _heads(net.v(y), 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return net.last(mixed.transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(3, 8) for name in "qkv"}
    model = Graph(forward, **layers, last=nn.Linear(8, 2))
    expect(model, TOKENS, torch.randn(2, 4, 3), q="q*q.inner@q, 3", v="q*v.inner@q, 3")


def test_token_mixing() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.stem(x)
        mixed = net.down(net.up(h.transpose(1, 2)).relu()).transpose(1, 2)
        return net.last(h + mixed)

    model = Graph(forward, stem=nn.Linear(3, 4), up=nn.Linear(5, 6), down=nn.Linear(6, 5), last=nn.Linear(4, 2))
    expect(model, TOKENS, stem="stem, 3", up="up, 5", down="5, up", last="2, stem")


def test_interchangeable_learned_tokens_are_permuted() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        scores = net.queries @ x.transpose(1, 2)
        return net.last((scores.softmax(-1) @ x).mean(1))

    model = Graph(forward, queries=parameter(7, 3), last=nn.Linear(3, 2))
    expect(model, TOKENS, queries="queries, 3")
