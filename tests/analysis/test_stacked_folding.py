"""Folding of normalizations in front of experts that are separate modules."""

from __future__ import annotations

from itertools import starmap

import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind, SymmetryElement

WIDTH = 6


class Gated(nn.Module):
    """A gated expert, with a normalization of its hidden units if requested."""

    def __init__(self, *, normalized: bool) -> None:
        super().__init__()
        self.w1 = nn.Linear(WIDTH, 5, bias=False)
        self.w3 = nn.Linear(WIDTH, 5, bias=False)
        self.norm = nn.RMSNorm(5) if normalized else nn.Identity()
        self.w2 = nn.Linear(5, WIDTH, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.w2(self.norm(nn.functional.silu(self.w1(x)) * self.w3(x)))
        return output


class Block(nn.Module):
    """A mixture of experts on a normalized residual stream."""

    def __init__(self, *, normalized: bool = False) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, WIDTH), nn.RMSNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, 3, bias=False)
        self.experts = nn.ModuleList([Gated(normalized=normalized) for _ in range(3)])
        self.last, self.out = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 2)
        self.double()
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.RMSNorm) and module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        seen = self.norm(hidden)
        weights = self.gate(seen).softmax(-1)
        total = hidden
        for number, expert in enumerate(self.experts):
            total = torch.add(total, weights[..., number, None] * expert(seen))
        output: Tensor = self.out(self.last(total))
        return output


def inputs() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_scales_are_multiplied_into_the_weights_of_all_experts() -> None:
    torch.manual_seed(0)
    model, x = Block(), inputs()
    spec = rc.trace_spec(model, x)
    folded = rc.fold(model, spec, example_inputs=x)
    assert set(folded.report.scales) == {"norm.weight", "last.weight"}
    assert torch.allclose(folded.network(x), model(x), rtol=1e-12)
    scale = model.norm.weight
    for number in range(3):
        expected = model.get_parameter(f"experts.{number}.w1.weight") * scale
        assert torch.allclose(folded.network.get_parameter(f"experts.{number}.w1.weight"), expected)
    undone = folded.undo(folded.network)
    assert all(starmap(torch.allclose, zip(undone.parameters(), model.parameters(), strict=True)))


def test_rotations_of_the_stream_and_exchanges_are_undone_together() -> None:
    torch.manual_seed(0)
    model, x = Block(), inputs()
    spec = rc.trace_spec(model, x)
    assert Kind.ORTHOGONAL in {linear.kind for linear in spec.folded_symmetry.linear}
    folded = rc.fold(model, spec, example_inputs=x).network
    planted = SymmetryElement.random(spec.folded_symmetry, generator=torch.Generator().manual_seed(0))
    candidate = planted.apply(folded)
    assert torch.allclose(candidate(x), model(x), rtol=1e-10)
    found = rc.match(folded, candidate, spec, rc.matchers.WeightMatcher(symmetry="full"))
    aligned = found.apply(candidate)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(aligned.parameters(), folded.parameters(), strict=True))


def test_normalizations_within_experts_are_not_changed() -> None:
    torch.manual_seed(0)
    model, x = Block(normalized=True), inputs()
    spec = rc.trace_spec(model, x)
    assert "experts.{experts}.norm.weight" in spec.layout.stacks
    folded = rc.fold(model, spec, example_inputs=x)
    assert set(folded.report.scales) == {"norm.weight", "last.weight"}
    assert torch.allclose(folded.network(x), model(x), rtol=1e-12)
    for number in range(3):
        name = f"experts.{number}.norm.weight"
        assert torch.equal(folded.network.get_parameter(name), model.get_parameter(name))
