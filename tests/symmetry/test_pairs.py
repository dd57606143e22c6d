"""Pairs of units: the parts of tensors, and rotations compared with matrices written down by hand."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.posteriors import DiagonalGaussianPosterior
from rebasin_core.symmetry import (
    Atom,
    Group,
    Kind,
    Layout,
    LinearSymmetry,
    Pairs,
    Permutation,
    Slot,
    Symmetry,
    SymmetryElement,
)

FIRST = {Pairs.HALVES: [0, 1, 2], Pairs.NEIGHBORS: [0, 2, 4]}
SECOND = {Pairs.HALVES: [3, 4, 5], Pairs.NEIGHBORS: [1, 3, 5]}
LAYOUT = Layout({"n": Group("n", 6)}, {"w": (Atom(2), Atom(6, "n")), "v": (Atom(6, "n"),)})


def rotations(pairs: Pairs) -> LinearSymmetry:
    return LinearSymmetry("n", Kind.ROTATION, {Slot("v", 0): 1, Slot("w", 1): -1}, pairs=pairs)


@pytest.mark.parametrize("pairs", Pairs)
@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_parts_are_the_units_of_the_pairs(pairs: Pairs, dim: int) -> None:
    tensor = torch.randn(6, 6)
    first, second = pairs.parts(tensor, dim)
    assert torch.equal(first, tensor.index_select(dim, torch.tensor(FIRST[pairs])))
    assert torch.equal(second, tensor.index_select(dim, torch.tensor(SECOND[pairs])))
    assert torch.equal(pairs.joined(first, second, dim), tensor)


@pytest.mark.parametrize("pairs", Pairs)
def test_a_complex_factor_rotates_and_scales_each_pair(pairs: Pairs) -> None:
    symmetry = Symmetry(LAYOUT, (rotations(pairs),))
    factors = torch.tensor([[0.0, 2.0], [-1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    element = SymmetryElement(symmetry, Permutation.identity(symmetry.permutations), [factors])
    vector = torch.randn(6, dtype=torch.float64)
    weight = torch.randn(2, 6, dtype=torch.float64)
    first, second = FIRST[pairs], SECOND[pairs]
    numbers = torch.complex(vector[first], vector[second]) * torch.view_as_complex(factors)
    applied = element.apply({"v": vector, "w": weight})
    torch.testing.assert_close(applied["v"][first], numbers.real)
    torch.testing.assert_close(applied["v"][second], numbers.imag)
    torch.testing.assert_close(applied["w"] @ applied["v"], weight @ vector)
    other = Symmetry(LAYOUT, (rotations(next(one for one in Pairs if one is not pairs)),))
    wrong = SymmetryElement(other, element.permutation, [factors]).apply({"v": vector})
    assert not torch.allclose(wrong["v"], applied["v"])
    assert SymmetryElement(other, element.permutation, [factors]) != element


def test_only_equal_deviations_of_a_pair_stay_independent() -> None:
    symmetry = Symmetry(LAYOUT, (rotations(Pairs.NEIGHBORS),))
    element = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(0))
    mean = {"v": torch.randn(6, dtype=torch.float64), "w": torch.randn(2, 6, dtype=torch.float64)}
    stddev = {"v": torch.tensor([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]).double(), "w": torch.zeros(2, 6).double()}
    transformed = DiagonalGaussianPosterior(mean, stddev).transform(element)
    size = torch.view_as_complex(element.maps[0]).abs() if element.maps[0] is not None else torch.ones(3)
    torch.testing.assert_close(transformed.stddev["v"], stddev["v"] * size.repeat_interleave(2))
    halves = {**stddev, "v": torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]).double()}
    with pytest.raises(InvalidInputError, match="standard deviations differ"):
        DiagonalGaussianPosterior(mean, halves).transform(element)


def test_documents_have_the_pairs() -> None:
    neighbors, halves = rotations(Pairs.NEIGHBORS), rotations(Pairs.HALVES)
    assert LinearSymmetry.from_json(neighbors.as_json()) == neighbors
    assert "pairs" not in halves.as_json()  # as in files of earlier versions
    assert LinearSymmetry.from_json(halves.as_json()) == halves
    with pytest.raises(FileFormatError, match="linear symmetry as an object"):
        LinearSymmetry.from_json({**neighbors.as_json(), "pairs": "thirds"})


def test_contradictions_are_rejected() -> None:
    with pytest.raises(SpecError, match="pairs of neighbors for rotations only, got orthogonal"):
        LinearSymmetry("n", Kind.ORTHOGONAL, {Slot("v", 0): 1}, pairs=Pairs.NEIGHBORS)
    with pytest.raises(InvalidInputError, match="as a member of `Pairs`, got"):
        LinearSymmetry("n", Kind.ROTATION, {Slot("v", 0): 1}, pairs="neighbors")  # type: ignore[arg-type]
