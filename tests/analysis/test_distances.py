from __future__ import annotations

import math

import pytest
import torch

from rebasin_core import table_spec
from rebasin_core.analysis import Distance, network_distances
from rebasin_core.bilinear import pieces

TABLE = {"in": "hidden, -", "bias": "hidden", "heads": "h*w@h, hidden", "out": "-, h*w", "alone": "-"}
SHAPES = {"in": (8, 5), "bias": (8,), "heads": (6, 8), "out": (4, 6), "alone": (7,)}
GROUPS = {"hidden": ("in", "bias", "heads"), "h": ("heads", "out"), "w": ("heads", "out")}


def network(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def flat(tensors: dict[str, torch.Tensor], names: tuple[str, ...]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


@pytest.mark.parametrize("limit", [2**24, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_distances_are_those_of_the_permuted_network(
    limit: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "MAX_ENTRIES", limit)
    a, b = ({name: t.to(dtype) for name, t in network(seed).items()} for seed in (0, 1))
    spec = table_spec(TABLE, a, sizes={"h": 2})
    permutation = spec.random_permutation(generator=torch.Generator().manual_seed(2))
    moved = permutation.apply(b)
    found = network_distances(spec.layout, a, b, permutation)
    a, b, moved = ({name: t.double() for name, t in side.items()} for side in (a, b, moved))
    assert {group: set(names) for group, names in found.groups.items()} == {g: set(n) for g, n in GROUPS.items()}
    names = tuple(SHAPES)
    permuted = tuple(name for name in names if name != "alone")
    for distance, of in (
        (found.total, names),
        (found.permuted, permuted),
        (found.fixed, ("alone",)),
        (found.of_group("hidden"), GROUPS["hidden"]),
    ):
        left, right, after = flat(a, of), flat(b, of), flat(moved, of)
        scale = math.sqrt((left.square().sum() + right.square().sum()) / 2)
        close = pytest.approx
        assert distance.size == len(left)
        assert distance.unaligned == close(torch.linalg.vector_norm(left - right).item() / scale, rel=1e-5)
        assert distance.aligned == close(torch.linalg.vector_norm(left - after).item() / scale, rel=1e-5)
        assert distance.cosine_before == close(torch.cosine_similarity(left, right, dim=0).item(), abs=1e-5)
        assert distance.cosine_after == close(torch.cosine_similarity(left, after, dim=0).item(), abs=1e-5)
        ratio = ((left - after).square().sum() / (left - right).square().sum()).item()
        assert distance.explained == close(1 - ratio, abs=1e-5)
    assert found.coverage == pytest.approx(1 - 7 / sum(map(math.prod, SHAPES.values())))


def test_without_a_permutation_both_distances_are_equal_and_other_names_are_ignored() -> None:
    a, b = network(0), network(1)
    spec = table_spec(TABLE, a, sizes={"h": 2})
    found = network_distances(spec.layout, {**a, "step": torch.tensor(3)}, {**b, "extra": torch.zeros(2)})
    assert set(found.tensors) == set(SHAPES)
    assert found.total.aligned == found.total.unaligned
    assert found.total.explained == 0.0


def test_equal_and_zero_networks() -> None:
    a = network(0)
    spec = table_spec(TABLE, a, sizes={"h": 2})
    same = network_distances(spec.layout, a, a).total
    assert same.unaligned == pytest.approx(0.0, abs=1e-7)
    assert same.cosine_before == pytest.approx(1.0)
    assert math.isnan(Distance().unaligned)
    assert math.isnan(Distance().cosine_after)
    assert Distance().explained == 0.0
