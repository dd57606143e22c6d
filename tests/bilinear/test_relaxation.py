"""Frank-Wolfe steps, against automatic differentiation and a grid of step sizes in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from rebasin_core.assignment import AutoAssignment
from rebasin_core.bilinear.relaxation import Relaxation
from rebasin_core.bilinear.terms import terms_of
from rebasin_core.symmetry import Atom, Group, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.symmetry.axis import Axis

SIZES = {"a": 7, "b": 5, "c": 6}
A, B, C, FIXED = Atom(7, "a"), Atom(5, "b"), Atom(6, "c"), Atom(3)
CHAIN: dict[str, tuple[Axis, ...]] = {"in": (A, FIXED), "ab": (B, A), "bias": (B,), "aa": (A, A), "bc": (C, B)}
LETTERS = {"a": "a", "b": "b", "c": "c"}


def problem(axes: Mapping[str, tuple[Axis, ...]], seed: int) -> tuple[Layout, dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    layout = Layout({name: Group(name, size) for name, size in SIZES.items()}, dict(axes))
    shapes = {name: tuple(axis.size for axis in own) for name, own in axes.items()}
    sides = [
        {n: torch.randn(1, *shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
        for _ in range(2)
    ]
    return layout, sides[0], sides[1]


def objective(layout: Layout, sides: tuple[dict[str, Tensor], dict[str, Tensor]], soft: Mapping[str, Tensor]) -> Tensor:
    """Return the objective, by multiplying every axis with its matrix."""
    total = torch.zeros((), dtype=torch.float64)
    for name, axes in layout.axes.items():
        moved = sides[1][name]
        for dim, axis in enumerate(axes, start=1):
            if isinstance(axis, Atom) and axis.group is not None:
                moved = (moved.movedim(dim, -1) @ soft[axis.group].T).movedim(-1, dim)
        total += (sides[0][name] * moved).sum()
    return total


@pytest.mark.parametrize("further", [{}, {"abc": (A, B, C)}])
@pytest.mark.parametrize("start", ["uniform", "identity"])
def test_steps_are_exact(further: dict[str, tuple[Axis, ...]], start: str) -> None:
    for seed in range(3):
        layout, *sides = problem({**CHAIN, **further}, seed)
        pair = sides[0], sides[1]
        terms = [t for n, axes in layout.axes.items() for t in terms_of(axes, pair[0][n], pair[1][n])]
        ascent = Relaxation(layout, terms, list(SIZES), AutoAssignment(), uniform=start == "uniform")
        for _ in range(30):  # more than the number of steps after which gradients are renewed
            before = {name: matrix.clone().requires_grad_() for name, matrix in ascent.matrices.items()}
            value = objective(layout, pair, before)
            assert ascent.value == pytest.approx(float(value.detach()), rel=1e-9, abs=1e-9)
            slopes = torch.autograd.grad(value, list(before.values()))
            vertices = dict(zip(before, map(best_permutation, slopes), strict=True))
            held = {name: matrix.detach() for name, matrix in before.items()}
            grid = [
                float(objective(layout, pair, {n: torch.lerp(held[n], vertices[n], a / 200) for n in held}))
                for a in range(201)
            ]
            increase = ascent.step()
            assert increase == pytest.approx(ascent.value - float(value.detach()), abs=1e-9)
            assert ascent.value >= max(grid) - 1e-9
            for matrix in ascent.matrices.values():
                ones = torch.ones(len(matrix), dtype=matrix.dtype)
                assert torch.allclose(matrix.sum(0), ones)
                assert torch.allclose(matrix.sum(1), ones)


def best_permutation(slope: Tensor) -> Tensor:
    """Return the permutation matrix with the largest inner product."""
    index = AutoAssignment().solve(slope).index
    matrix = torch.zeros_like(slope)
    matrix[torch.arange(len(index)), index] = 1.0
    return matrix


def test_a_problem_without_terms() -> None:
    layout, *sides = problem({"in": (FIXED, FIXED)}, 0)
    terms = list(terms_of(layout.axes["in"], sides[0]["in"], sides[1]["in"]))
    ascent = Relaxation(layout, terms, list(SIZES), AutoAssignment())
    assert ascent.step() == 0.0
    assert all(torch.equal(index, torch.arange(len(index))) for index in ascent.rounded().values())
