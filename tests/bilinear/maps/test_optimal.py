"""Optimal maps, compared with exhaustive search and with the conditions of a maximum."""

from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.bilinear.maps.optimal import best_map, best_value
from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry import Kind, Pairs


def similarity(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES, Kind.INVERTIBLE])
def test_orthogonal_maps_are_maxima(kind: Kind) -> None:
    given = similarity(3, 5, 5)
    found = best_map(kind, given)
    identity = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(found @ found.mT, identity.expand(3, 5, 5), atol=1e-12)
    value = (given * found).sum((-2, -1))
    assert torch.allclose(value, best_value(kind, given), atol=1e-12)
    if kind is Kind.ORTHOGONAL_FIXING_ONES:
        assert torch.allclose(found.sum(-1), torch.ones(3, 5, dtype=torch.float64), atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        other = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))[0]
        if kind is Kind.ORTHOGONAL_FIXING_ONES:  # an orthogonal map of the complement
            basis = torch.linalg.svd(torch.ones(1, 5, dtype=torch.float64))[2][1:].T
            small = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
            other = basis @ small @ basis.T + 0.2
        assert bool(((given * other).sum((-2, -1)) <= value + 1e-12).all())


@pytest.mark.parametrize("pairs", Pairs)
def test_rotations_are_maxima_over_all_angles(pairs: Pairs) -> None:
    given = similarity(2, 6, 6)
    found = best_map(Kind.ROTATION, given, pairs=pairs)
    first = torch.arange(3) if pairs is Pairs.HALVES else torch.arange(0, 6, 2)
    second = first + (3 if pairs is Pairs.HALVES else 1)
    assert torch.allclose(found.square().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    angles = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)
    for outer in range(2):
        for pair in range(3):
            both = [int(first[pair]), int(second[pair])]
            block = given[outer][both][:, both]
            values = (block[0, 0] + block[1, 1]) * angles.cos() + (block[1, 0] - block[0, 1]) * angles.sin()
            cosine, sine = found[outer, pair]
            own = (block[0, 0] + block[1, 1]) * cosine + (block[1, 0] - block[0, 1]) * sine
            assert values.max() <= own + 1e-12
            assert values.max() >= own - 1e-4
    whole = torch.zeros(2, 6, 6, dtype=torch.float64)
    whole[:, first, first] = whole[:, second, second] = found[..., 0]
    whole[:, first, second], whole[:, second, first] = -found[..., 1], found[..., 1]
    assert torch.allclose((whole * given).sum((-2, -1)), best_value(Kind.ROTATION, given, pairs=pairs))


def test_signs_are_those_of_the_diagonal() -> None:
    given = similarity(4, 4)
    assert torch.equal(best_map(Kind.SIGN, given), given.diagonal().sign())
    assert best_value(Kind.SIGN, given) == given.diagonal().abs().sum()


def test_positive_factors_are_determined_by_the_gauge() -> None:
    with pytest.raises(InvalidInputError, match="gauge"):
        best_map(Kind.POSITIVE, similarity(3, 3))
