"""Optimal maps, compared with exhaustive search and with the conditions of a maximum."""

from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.bilinear.maps.optimal import best_map, best_value, can_improve
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


@pytest.mark.parametrize("kind", [Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES, Kind.INVERTIBLE])
@pytest.mark.parametrize(("size", "rank"), [(1, 1), (2, 2), (6, 2), (6, 0)])
def test_singular_similarities_have_orthogonal_maps(kind: Kind, size: int, rank: int) -> None:
    given = similarity(3, size, rank) @ similarity(3, rank, size, seed=1)
    found = best_map(kind, given)
    assert torch.allclose(found @ found.mT, torch.eye(size, dtype=torch.float64).expand(3, size, size), atol=1e-12)
    assert torch.allclose((given * found).sum((-2, -1)), best_value(kind, given), atol=1e-12)
    if kind is Kind.ORTHOGONAL_FIXING_ONES:
        assert torch.allclose(found.sum(-1), torch.ones(3, size, dtype=torch.float64), atol=1e-12)


MIXING = (Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES, Kind.INVERTIBLE)


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("shape", [(7, 7), (3, 5, 5)])
def test_the_optimal_map_cannot_be_improved(kind: Kind, shape: tuple[int, ...]) -> None:
    given = similarity(*shape)
    assert can_improve(kind, given, 1e-9)
    aligned = given @ best_map(kind, given).mT  # of the network to which the map was applied
    assert not can_improve(kind, aligned, 1e-9)
    worse = aligned.clone()
    worse[..., :1, :] *= -1  # not positive definite: a rotation by 180 degrees of two units improves it
    assert can_improve(kind, worse, 1e-9)


@pytest.mark.parametrize("kind", MIXING)
def test_an_improvement_above_the_tolerance_is_not_missed(kind: Kind) -> None:
    missed, decided = 0, 0
    for seed in range(20):
        given = similarity(2, 6, 6, seed=seed)
        aligned = given @ best_map(kind, given).mT
        for size in (1e-1, 1e-2, 1e-3, 1e-4):
            other = aligned + size * similarity(2, 6, 6, seed=seed + 100)
            increase = (best_value(kind, other) - other.diagonal(dim1=-2, dim2=-1).sum(-1)).sum().item()
            for tolerance in (0.3 * increase, 3 * increase, 30 * increase):
                is_found = can_improve(kind, other, tolerance)
                missed += not is_found and increase > tolerance
                decided += not is_found
    assert not missed
    assert decided > 20  # the bound is close enough to decide


def test_other_kinds_are_not_decided() -> None:
    assert can_improve(Kind.SIGN, torch.eye(3, dtype=torch.float64), 1e-9)
