"""The kinds of groups that tracing derives, for models with textbook symmetries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind

if TYPE_CHECKING:
    from rebasin_core.symmetry import Symmetry


def kinds(symmetry: Symmetry) -> dict[str, list[tuple[str, dict[str, int]]]]:
    """Return the kind and the degrees of every linear symmetry, by group."""
    found: dict[str, list[tuple[str, dict[str, int]]]] = {}
    for linear in symmetry.linear:
        degrees = {slot.tensor: degree for slot, degree in linear.degrees.items()}
        found.setdefault(linear.group, []).append((str(linear.kind), degrees))
    return found


SCALED = {"0.weight": 1, "0.bias": 1, "2.weight": -1}
SIGNED = dict.fromkeys(SCALED, 1)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(), [("positive", SCALED)]),
        (nn.LeakyReLU(), [("positive", SCALED)]),
        (nn.Tanh(), [("sign", SIGNED)]),
        (nn.Tanhshrink(), [("sign", SIGNED)]),
        (nn.GELU(), []),
        (nn.SiLU(), []),
        (nn.ReLU6(), []),
        (nn.Identity(), [("invertible", SCALED)]),
        (nn.Dropout(), [("invertible", SCALED)]),
    ],
)
def test_the_activation_determines_the_kind(activation: nn.Module, expected: list[tuple[str, dict[str, int]]]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)).eval()
    found = kinds(rc.trace_spec(model, torch.randn(2, 3)).symmetry)
    assert found == ({"units.0": expected} if expected else {})


class Gated(nn.Module):
    """SwiGLU, whose units enter linearly in one factor."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.down(functional.silu(self.gate(inputs)) * self.up(inputs))
        return output


def test_units_that_enter_linearly_have_nonzero_factors() -> None:
    found = kinds(rc.trace_spec(Gated(), torch.randn(2, 3)).symmetry)
    assert found == {"gate": [("nonzero", {"up.weight": 1, "up.bias": 1, "down.weight": -1})]}


class Norm(nn.Module):
    """A normalization written out in primitive operators."""

    def __init__(self, width: int, *, centered: bool, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width) - offset)
        self.centered, self.offset = centered, offset

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs - inputs.mean(-1, keepdim=True) if self.centered else inputs
        variance = inputs.pow(2).mean(-1, keepdim=True)
        return (self.offset + self.weight) * (inputs * torch.rsqrt(variance + 1e-6))


def stream(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.RMSNorm(6), Kind.ORTHOGONAL),
        (nn.LayerNorm(6), Kind.ORTHOGONAL_FIXING_ONES),
        (Norm(6, centered=False), Kind.ORTHOGONAL),
        (Norm(6, centered=True), Kind.ORTHOGONAL_FIXING_ONES),
    ],
)
def test_normalized_units_rotate_if_their_scales_are_folded(norm: nn.Module, kind: Kind) -> None:
    spec = rc.trace_spec(stream(norm), torch.randn(2, 3))
    (rotation,) = spec.folded_symmetry.linear
    assert rotation.kind is kind
    assert rotation.ones == ("1.weight",)
    signs = [linear.kind for linear in spec.symmetry.linear]
    # Without folding, the scale and the next weights can be exchanged; signs of units commute with a norm only.
    assert signs == ([Kind.NONZERO, Kind.SIGN] if kind is Kind.ORTHOGONAL else [Kind.NONZERO])


def test_batch_normalization_admits_signs_before_it_and_scales_after_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    (found,) = kinds(rc.trace_spec(model, torch.randn(2, 3)).symmetry).values()
    assert found == [
        ("positive", {"1.weight": 1, "1.bias": 1, "3.weight": -1}),
        ("sign", {"0.weight": 1, "0.bias": 1, "1.weight": 1, "1.running_mean": 1}),
    ]


class Attention(nn.Module):
    """Self-attention with a fused projection, on a stream without normalization."""

    def __init__(self, *, scaled: bool = False) -> None:
        super().__init__()
        self.embed, self.fused, self.out = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.ones(4)) if scaled else None

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embed(inputs)
        query, key, value = self.fused(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.scale is not None:
            query = functional.normalize(query, dim=-1) * self.scale
        mixed = functional.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return output


def test_the_parts_of_a_fused_projection_have_maps_of_their_own() -> None:
    spec = rc.trace_spec(Attention(), torch.randn(2, 5, 3))
    found = {linear.group: linear for linear in spec.symmetry.linear}
    assert {linear.kind for linear in found.values()} == {Kind.INVERTIBLE}
    scores, values = (linear for name, linear in found.items() if spec.groups[name].within is not None)
    assert [(slot.tensor, slot.number, degree) for slot, degree in scores.degrees.items()] == [
        ("fused.weight", 1, 1),
        ("fused.weight", 3, -1),
        ("fused.bias", 1, 1),
        ("fused.bias", 3, -1),
    ]
    assert [(slot.tensor, degree) for slot, degree in values.degrees.items()] == [
        ("fused.weight", 1),
        ("fused.bias", 1),
        ("out.weight", -1),
    ]


def test_normalized_queries_admit_fewer_maps() -> None:
    plain, scaled = (rc.trace_spec(Attention(scaled=one), torch.randn(2, 5, 3)).symmetry for one in (False, True))
    assert [linear.kind for linear in plain.linear].count(Kind.INVERTIBLE) == 3
    assert [linear.kind for linear in scaled.linear].count(Kind.INVERTIBLE) == 2
    assert Kind.NONZERO in {linear.kind for linear in scaled.linear}  # the scale, ascalest the keys


def test_a_rule_of_another_library_admits_permutations_only() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    rules = {**rc.trace_spec.__globals__["installed_rules"](), "aten.relu": lambda call: call.first}
    assert not rc.trace_spec(model, torch.randn(2, 3), rules=rules).symmetry.linear


def test_symmetries_are_stored_in_files(tmp_path: object) -> None:
    spec = rc.trace_spec(stream(nn.LayerNorm(6)), torch.randn(2, 3))
    path = f"{tmp_path}/spec.json"
    rc.save_spec(spec, path)
    read = rc.load_spec(path)
    assert read.symmetry == spec.symmetry
    assert read.folded_symmetry == spec.folded_symmetry


def test_masks_and_integers_are_not_changed() -> None:
    pruned = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.random_unstructured(pruned[0], "weight", 0.3)
    (found,) = kinds(rc.trace_spec(pruned, torch.randn(2, 3)).symmetry).values()
    assert found == [("positive", {"0.bias": 1, "0.weight_orig": 1, "2.weight": -1})]
