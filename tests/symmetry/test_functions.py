"""Elements of every kind leave the function of hand-made networks unchanged, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rebasin_core.symmetry import Kind, LinearSymmetry, Slot, Symmetry, SymmetryElement
from rebasin_core.symmetry.layout import Layout

Network = Callable[[Mapping[str, Tensor], Tensor], Tensor]
TOKENS, STREAM, HEADS, KEY_HEADS, WIDTH, VALUES, HIDDEN = 5, 6, 4, 2, 4, 3, 7


def layout(groups: Mapping[str, int | tuple[int, str]], axes: Mapping[str, str]) -> Layout:
    """Return a layout from sizes of groups (with their outer group) and axes in the notation of tables."""
    entries = {
        name: {"size": size} if isinstance(size, int) else {"size": size[0], "within": size[1]}
        for name, size in groups.items()
    }
    return Layout.from_json({"groups": entries, "axes": axes})


def mlp(activation: Callable[[Tensor], Tensor]) -> Network:
    def network(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return activation(x @ p["in"].T + p["bias"]) @ p["out"].T

    return network


def of_hidden(kind: Kind) -> Symmetry:
    axes = {"in": f"n, {STREAM}", "bias": "n", "out": f"{STREAM}, n"}
    degrees = {Slot("in", 0): 1, Slot("bias", 0): 1, Slot("out", 1): -1}
    return Symmetry(layout({"n": HIDDEN}, axes), (LinearSymmetry("n", kind, degrees),))


def gated(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    h = x @ p["gate"].T
    gate: Tensor = h * h.sigmoid()
    return (gate * (x @ p["up"].T)) @ p["down"].T


def of_gated(kind: Kind = Kind.NONZERO) -> Symmetry:
    axes = {"gate": f"n, {STREAM}", "up": f"n, {STREAM}", "down": f"{STREAM}, n"}
    return Symmetry(layout({"n": HIDDEN}, axes), (LinearSymmetry("n", kind, {Slot("up", 0): 1, Slot("down", 1): -1}),))


def batch_normalized(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    h = functional.batch_norm(x @ p["in"].T, p["mean"], p["var"], p["weight"], p["bias"], eps=0.0)
    return h.tanh() @ p["out"].T


def of_batch_normalized() -> Symmetry:
    axes = {"in": f"n, {STREAM}", **dict.fromkeys(("mean", "var", "weight", "bias"), "n"), "out": f"{STREAM}, n"}
    before = LinearSymmetry("n", Kind.POSITIVE, {Slot("in", 0): 1, Slot("mean", 0): 1, Slot("var", 0): 2})
    after = LinearSymmetry("n", Kind.SIGN, {Slot("weight", 0): 1, Slot("bias", 0): 1, Slot("out", 1): -1})
    return Symmetry(layout({"n": HIDDEN}, axes), (before, after))


def attention(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Attention with rotary positions, grouped queries (two heads share one of keys and values), and fused queries."""
    share = HEADS // KEY_HEADS
    q = (x @ p["q"].T).reshape(-1, TOKENS, KEY_HEADS, share, WIDTH)
    kv = (x @ p["kv"].T).reshape(-1, TOKENS, KEY_HEADS, WIDTH + VALUES)
    k, v = kv.split([WIDTH, VALUES], dim=-1)
    q, k = rotary(q.movedim(1, 3)), rotary(k.movedim(1, 2))
    weights = (q @ k.unsqueeze(2).mT).softmax(-1)
    mixed: Tensor = weights @ v.movedim(1, 2).unsqueeze(2)  # [batch, key heads, share, tokens, values]
    return mixed.movedim(3, 1).flatten(2) @ p["o"].T


def rotary(x: Tensor) -> Tensor:
    """Rotate the pairs (i, i + n/2) of ``[..., tokens, n]`` by the position times a frequency."""
    angle = torch.arange(TOKENS).double()[:, None] * torch.tensor([1.0, 0.1], dtype=torch.float64)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def of_attention(rotation: Kind = Kind.ROTATION, value: Kind = Kind.INVERTIBLE) -> Symmetry:
    groups: dict[str, int | tuple[int, str]] = {
        "g": KEY_HEADS,
        "u": (HEADS // KEY_HEADS, "g"),
        "r": (WIDTH, "g"),
        "v": (VALUES, "g"),
    }
    axes = {"q": f"g*u@g*r@g, {STREAM}", "kv": f"g*(r@g + v@g), {STREAM}", "o": f"{STREAM}, g*u@g*v@g"}
    keys = LinearSymmetry("r", rotation, {Slot("q", 0, 2): 1, Slot("kv", 0, 1): -1})
    values = LinearSymmetry("v", value, {Slot("kv", 0, 2): 1, Slot("o", 1, 2): -1})
    return Symmetry(layout(groups, axes), (keys, values), frozenset({"r"}))


def residual(normalize: Callable[[Tensor], Tensor]) -> Network:
    """Return a residual stream with one block between normalizations whose scales are one."""

    def network(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        stream = x @ p["embed"].T
        h = normalize(stream) * p["norm"] + p["shift"]
        stream += (h @ p["in"].T).relu() @ p["out"].T
        return normalize(stream) @ p["head"].T

    return network


def rms(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


def centered(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=0.0)


def of_residual(kind: Kind) -> Symmetry:
    axes = {"embed": f"s, {STREAM}", "norm": "s", "shift": "s", "in": "n, s", "out": "s, n", "head": "3, s"}
    degrees = {Slot(name, dim): d for name, dim, d in (
        ("embed", 0, 1), ("shift", 0, 1), ("in", 1, -1), ("out", 0, 1), ("head", 1, -1)
    )}  # fmt: skip
    stream = LinearSymmetry("s", kind, degrees, ones=("norm",))
    hidden = LinearSymmetry("n", Kind.POSITIVE, {Slot("in", 0): 1, Slot("out", 1): -1})
    return Symmetry(layout({"s": 8, "n": HIDDEN}, axes), (stream, hidden))


CASES: dict[str, tuple[Network, Symmetry]] = {
    "relu and positive factors": (mlp(torch.relu), of_hidden(Kind.POSITIVE)),
    "tanh and signs": (mlp(torch.tanh), of_hidden(Kind.SIGN)),
    "identity and invertible maps": (mlp(lambda x: x), of_hidden(Kind.INVERTIBLE)),
    "gate and nonzero factors": (gated, of_gated()),
    "batch normalization": (batch_normalized, of_batch_normalized()),
    "attention": (attention, of_attention()),
    "root mean square and orthogonal maps": (residual(rms), of_residual(Kind.ORTHOGONAL)),
    "layer normalization and orthogonal maps that fix ones": (
        residual(centered),
        of_residual(Kind.ORTHOGONAL_FIXING_ONES),
    ),
}
TOO_LARGE: dict[str, tuple[Network, Symmetry]] = {
    "relu and nonzero factors": (mlp(torch.relu), of_hidden(Kind.NONZERO)),
    "tanh and positive factors": (mlp(torch.tanh), of_hidden(Kind.POSITIVE)),
    "gate and invertible maps": (gated, of_gated(Kind.INVERTIBLE)),
    "rotary positions and orthogonal maps": (attention, of_attention(rotation=Kind.ORTHOGONAL)),
    "root mean square and invertible maps": (residual(rms), of_residual(Kind.INVERTIBLE)),
    "layer normalization and orthogonal maps": (residual(centered), of_residual(Kind.ORTHOGONAL)),
}


def change(network: Network, symmetry: Symmetry) -> float:
    """Return the largest relative change of the outputs under a random element; every tensor changes."""
    generator = torch.Generator().manual_seed(0)
    axes = symmetry.layout.axes
    p = {n: torch.randn(symmetry.layout.shape(n), generator=generator, dtype=torch.float64) for n in axes}
    positive = {name: tensor.abs() + 0.5 for name, tensor in p.items() if name == "var"}
    p |= positive | {name: torch.ones_like(tensor) for name, tensor in p.items() if name == "norm"}
    x = torch.randn(20, TOKENS, STREAM, generator=generator, dtype=torch.float64)
    x = x.flatten(0, 1) if "var" in p else x
    element = SymmetryElement.random(symmetry, generator=generator)
    moved = element.apply(p)
    assert all(not torch.allclose(moved[name], tensor) for name, tensor in p.items() if name != "norm")
    before, after = network(p, x), network(moved, x)
    return ((before - after).abs().max() / before.abs().max()).item()


@pytest.mark.parametrize("case", CASES)
def test_function_is_preserved(case: str) -> None:
    assert change(*CASES[case]) < 1e-9


@pytest.mark.parametrize("case", TOO_LARGE)
def test_larger_kinds_change_the_function(case: str) -> None:
    assert change(*TOO_LARGE[case]) > 1e-3


def test_scales_of_normalizations_must_be_one() -> None:
    symmetry = of_residual(Kind.ORTHOGONAL)
    generator = torch.Generator().manual_seed(0)
    p = {name: torch.randn(symmetry.layout.shape(name), generator=generator) for name in symmetry.layout.axes}
    with pytest.raises(ValueError, match="`norm` must be one"):
        SymmetryElement.random(symmetry, generator=generator).apply(p)
