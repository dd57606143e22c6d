"""Derived maps preserve the function of a network, and every family of maps that is one step larger changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import nn

import rebasin_core as rc
from rebasin_core.symmetry import Kind
from tests.specs.kinds.maps import linear_error_of, one_step_larger
from tests.specs.kinds.networks import Block, Gated, convolutional, dense, images, normalized, rows, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], set[Kind]]] = {
    "relu": (lambda: dense(nn.ReLU(), 5, 4), rows, {Kind.POSITIVE}),
    "tanh": (lambda: dense(nn.Tanh(), 5, 4), rows, {Kind.SIGN}),
    "gelu": (lambda: dense(nn.GELU(), 5, 4), rows, set()),
    "linear": (lambda: dense(nn.Identity(), 5), rows, {Kind.INVERTIBLE}),
    "gated": (Gated, rows, {Kind.NONZERO}),
    "layer norm": (lambda: normalized(nn.LayerNorm(5)), rows, {Kind.NONZERO, Kind.ORTHOGONAL_FIXING_ONES}),
    "rms norm": (lambda: normalized(nn.RMSNorm(5)), rows, {Kind.NONZERO, Kind.SIGN, Kind.ORTHOGONAL}),
    "batch norm": (
        lambda: convolutional(nn.BatchNorm2d(4), nn.ReLU(), bias=False),
        images,
        {Kind.SIGN, Kind.POSITIVE},
    ),
    "convolutions": (lambda: convolutional(nn.ReLU()), images, {Kind.POSITIVE}),
    "block": (Block, tokens, {Kind.NONZERO, Kind.INVERTIBLE, Kind.ORTHOGONAL_FIXING_ONES}),
    "grouped queries": (
        lambda: Block(nn.RMSNorm, key_heads=1, activation=nn.functional.relu, has_bias=False),
        tokens,
        {Kind.NONZERO, Kind.POSITIVE, Kind.SIGN, Kind.INVERTIBLE, Kind.ORTHOGONAL},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_derived_maps_preserve_the_function_and_larger_ones_do_not(name: str) -> None:
    build, inputs, kinds = CASES[name]
    model = build().double().eval()
    spec = rc.trace_spec(model, inputs())
    symmetries = (spec.symmetry, spec.folded_symmetry)
    assert {linear.kind for symmetry in symmetries for linear in symmetry.linear} == kinds
    assert max(linear_error_of(model, inputs(), symmetry, draws=3) for symmetry in symmetries) < 1e-9
    # A wrong map can preserve the function at some parameters only (a dead unit), so the larger of several errors.
    larger = {what: wrong for symmetry in symmetries for what, wrong in one_step_larger(symmetry)}
    assert larger
    errors = {what: linear_error_of(model, inputs(), wrong, draws=3) for what, wrong in larger.items()}
    assert not {what: error for what, error in errors.items() if error < 1e-6}
