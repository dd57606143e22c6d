"""A group and its nested groups are optimized jointly; compared with an enumeration of all permutations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product

import pytest
import torch

from rebasin_core import MatchOutcome, PermutationSpec, table_spec
from rebasin_core.bilinear import unit_similarities
from rebasin_core.matchers import WeightMatcher
from rebasin_core.posteriors import PointPosterior
from rebasin_core.symmetry import Permutation

Tensors = dict[str, torch.Tensor]


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def value(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    return sum((tensor * b[name]).sum().item() for name, tensor in a.items())


def elements_within(heads: int, width: int) -> list[torch.Tensor]:
    """Return all indices ``[heads, width]`` of a group nested in a group of heads."""
    each = [torch.tensor(order) for order in permutations(range(width))]
    return [torch.stack(chosen) for chosen in product(each, repeat=heads)]


HEADS = {"q": (6, 5), "k": (6, 5), "v": (6, 5), "o": (5, 6), "scale": (3,)}


@pytest.mark.parametrize("seed", range(5))
def test_heads_and_two_widths_reach_the_global_optimum(seed: int) -> None:
    a, b = random_tensors(HEADS, seed), random_tensors(HEADS, seed + 100)
    table = {"q": "h*w@h, -", "k": "h*w, -", "v": "h*u@h, -", "o": "-, h*u", "scale": "h"}
    spec = table_spec(table, a, sizes={"h": 3})
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
    best = max(
        value(a, Permutation(spec.layout, {"h": torch.tensor(h), "w": w, "u": u}).apply(b))
        for h in permutations(range(3))
        for w in elements_within(3, 2)
        for u in elements_within(3, 2)
    )
    assert result.objective == pytest.approx(best)
    assert result.objective == pytest.approx(value(a, result.apply(b)))


def three_levels(a: Tensors) -> PermutationSpec:
    """Return a specification of two experts with two heads each, and two channels in each head."""
    table = {"in": "g*h@g*w@h, -", "out": "-, g*h*w", "gate": "g, -", "scale": "g*h"}
    return table_spec(table, a, sizes={"g": 2, "h": 2})


@pytest.mark.parametrize("seed", range(5))
def test_three_levels_of_nested_groups_are_optimized_jointly(seed: int) -> None:
    shapes = {"in": (8, 3), "out": (3, 8), "gate": (2, 4), "scale": (4,)}
    a, b = random_tensors(shapes, seed), random_tensors(shapes, seed + 100)
    spec = three_levels(a)
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
    assert result.outcome is MatchOutcome.CONVERGED
    assert result.objective == pytest.approx(value(a, result.apply(b)))
    g = result.permutation.indices["g"]
    orders = [torch.tensor(order) for order in permutations(range(2))]
    best = max(
        value(a, Permutation(spec.layout, {"g": g, "h": torch.stack(h), "w": torch.stack(w).view(2, 2, 2)}).apply(b))
        for h in product(orders, repeat=2)
        for w in product(orders, repeat=4)
    )
    assert result.objective == pytest.approx(best)


def test_unit_similarities_are_cosines_of_all_weights_of_the_units() -> None:
    shapes = {"in": (4, 3), "w": (4, 4), "out": (2, 4), "q": (6, 4)}
    a, b = random_tensors(shapes, 0), random_tensors(shapes, 1)
    spec = table_spec({"in": "h, -", "w": "m, h", "out": "-, m", "q": "g*i@g, m"}, a, sizes={"g": 3})
    found = unit_similarities(spec.layout, a, b)
    assert sorted(found) == ["g", "h", "m"], "only groups that are not nested"
    rows = {name: torch.cat([tensors["in"], tensors["w"].T], 1) for name, tensors in (("a", a), ("b", b))}
    norms = rows["a"].norm(dim=1)
    torch.testing.assert_close(found["h"].norms, norms)
    expected = rows["a"] @ rows["b"].T / norms[:, None] / rows["b"].norm(dim=1)
    torch.testing.assert_close(found["h"].cosines, expected)
