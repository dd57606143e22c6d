"""Verdicts of networks with known relations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rebasin_core as rc
from rebasin_core.analysis import Distance, NetworkDistances
from rebasin_core.api.checkpoints import CheckpointAlignment, Relation, Verdict
from rebasin_core.symmetry.permutation import Permutation
from tests.api.checkpoints.networks import WIDE, Tensors, write


def moved(tensors: Tensors, share: float, seed: int = 2) -> Tensors:
    """Return tensors with noise, relative to their standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }


def aligned(folder: Path, candidate: Tensors, *, chance: bool = True) -> CheckpointAlignment:
    first = write(folder / "a.safetensors", WIDE.network())
    second = write(folder / "b.safetensors", candidate)
    return rc.align_checkpoints(first, second, model=WIDE.source, chance=chance)


@pytest.mark.parametrize("chance", [True, False])
def test_a_permuted_copy_is_equal(tmp_path: Path, *, chance: bool) -> None:
    found = aligned(tmp_path, WIDE.permuted(WIDE.network(), WIDE.orders()), chance=chance).verdict
    assert found.relation is Relation.EQUAL
    expected = sum(int((order != torch.arange(len(order))).sum()) for order in WIDE.orders().values())
    assert found.permuted == expected / (96 + 64)
    assert "up to a permutation" in str(found)


def test_a_permuted_copy_with_noise_is_related(tmp_path: Path) -> None:
    found = aligned(tmp_path, WIDE.permuted(moved(WIDE.network(), 0.2), WIDE.orders())).verdict
    assert found.relation is Relation.RELATED
    assert found.excess_before is not None
    assert found.excess_after is not None
    assert found.excess_before < 0.2
    assert found.excess_after > 0.8


def test_a_copy_with_little_noise_is_already_aligned(tmp_path: Path) -> None:
    found = aligned(tmp_path, moved(WIDE.network(), 0.2))
    assert found.verdict.relation is Relation.ALREADY_ALIGNED
    assert found.verdict.permuted == 0
    assert "Verdict: already aligned" in found.report()


def test_a_copy_with_much_noise_is_already_aligned(tmp_path: Path) -> None:
    assert aligned(tmp_path, moved(WIDE.network(), 1.0)).verdict.relation is Relation.ALREADY_ALIGNED


def test_a_permuted_copy_with_much_noise_is_better_than_chance(tmp_path: Path) -> None:
    found = aligned(tmp_path, WIDE.permuted(moved(WIDE.network(), 1.0), WIDE.orders())).verdict
    assert found.relation is Relation.INDEPENDENT


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_untrained_networks_are_no_better_than_chance(tmp_path: Path, seed: int) -> None:
    found = aligned(tmp_path, WIDE.network(seed))
    assert found.verdict.relation is Relation.CHANCE
    assert found.distances.permuted.cosine_after > found.distances.permuted.cosine_before + 0.2
    assert found.verdict.excess_after == pytest.approx(0, abs=0.03)


def test_without_the_comparison_the_relation_of_unlike_networks_is_unknown(tmp_path: Path) -> None:
    found = aligned(tmp_path, WIDE.network(3), chance=False)
    assert found.verdict.relation is Relation.UNKNOWN
    assert found.verdict.excess_after is None
    assert found.as_json()["by_chance"] is None


def distances(before: float, after: float) -> NetworkDistances:
    """Return distances of unit vectors with given cosines."""
    return NetworkDistances({"w": Distance(1.0, 1.0, 2 - 2 * before, 2 - 2 * after, 4)}, {"g": ("w",)})


@pytest.mark.parametrize(
    ("cosines", "chance", "extent", "excess", "relation"),
    [
        ((0.0, 0.95), (0.0, 0.5), 0.1, 0.9, Relation.RELATED),
        ((0.9, 0.9), (0.0, 0.5), 0.1, 0.8, Relation.ALREADY_ALIGNED),
        ((0.3, 0.75), (0.0, 0.5), 0.1, 0.5, Relation.PARTLY_ALIGNED),
        ((0.0, 0.75), (0.0, 0.5), 0.1, 0.5, Relation.INDEPENDENT),
        ((0.0, 0.52), (0.0, 0.5), 0.03, 0.04, Relation.CHANCE),
        ((0.0, 0.504), (0.0, 0.5), 0.0, 0.008, Relation.CHANCE),
        ((0.0, 0.95), (0.0, 0.95), 0.0, 0.0, Relation.CHANCE),
        ((0.2, 1.0), (0.2, 0.6), 0.1, 1.0, Relation.EQUAL),
    ],
)
def test_relations_of_given_cosines(
    cosines: tuple[float, float], chance: tuple[float, float], extent: float, excess: float, relation: Relation
) -> None:
    spec = rc.table_spec({"w": "g, -"}, {"w": torch.zeros(2, 2)})
    found = Verdict.of(Permutation.identity(spec.layout), distances(*cosines), distances(*chance), extent)
    assert found.relation is relation
    assert found.excess_before == pytest.approx((cosines[0] - chance[0]) / (1 - chance[0]))
    assert found.excess_after == pytest.approx(excess)
    assert found.permuted == 0
