"""Matchers compared with a search over all permutations of small networks."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from rebasin_core import Matcher, Permutation, PermutationSpec, kl_divergence, table_spec, wasserstein_distance
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.matchers import KLMatcher, WassersteinMatcher, WeightMatcher
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior

MATCHERS = {
    "weight": WeightMatcher(),
    "wasserstein": WassersteinMatcher(),
    "kl": KLMatcher(),
    "kl reversed": KLMatcher(direction="reference_to_candidate"),
}


def spec(hidden: list[int]) -> PermutationSpec:
    architecture = MLPArchitecture(hidden=hidden)
    return architecture.spec(architecture.build((3,), 2))


def gaussian(layout_spec: PermutationSpec, seed: int) -> DiagonalGaussianPosterior:
    g = torch.Generator().manual_seed(seed)
    shapes = {name: layout_spec.layout.shape(name) for name in layout_spec.axes}
    mean = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    stddev = {name: 0.2 + torch.rand(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return DiagonalGaussianPosterior(mean, stddev)


def value(name: str, q: DiagonalGaussianPosterior, r: DiagonalGaussianPosterior) -> float:
    """Return the quantity that each matcher should maximize, computed independently of the solver."""
    if name == "weight":
        return sum((q.mean[n] * r.mean[n]).sum().item() for n in q.mean)
    if name == "wasserstein":
        return -(wasserstein_distance(q, r) ** 2)
    return -kl_divergence(r, q) if name == "kl" else -kl_divergence(q, r)


def best_of_all(name: str, s: PermutationSpec, q: DiagonalGaussianPosterior, r: DiagonalGaussianPosterior) -> float:
    choices = [list(permutations(range(group.size))) for group in s.groups.values()]
    best = -float("inf")
    for choice in product(*choices):
        p = Permutation(s.layout, {n: torch.tensor(i) for n, i in zip(s.groups, choice, strict=True)})
        best = max(best, value(name, q, p.apply(r)))
    return best


@pytest.mark.parametrize("name", MATCHERS)
def test_one_hidden_layer_is_solved_exactly(name: str) -> None:
    s = spec([5])
    for seed in range(5):
        q, r = gaussian(s, seed), gaussian(s, seed + 100)
        found = value(name, q, MATCHERS[name].match(q, r, s).apply(r))
        assert found == pytest.approx(best_of_all(name, s, q, r))


@pytest.mark.parametrize("name", MATCHERS)
def test_two_hidden_layers_are_often_solved_and_never_below_the_identity(name: str) -> None:
    s = spec([4, 3])
    optimal = 0
    for seed in range(8):
        q, r = gaussian(s, seed), gaussian(s, seed + 100)
        found = value(name, q, MATCHERS[name].match(q, r, s).apply(r))
        assert found >= value(name, q, r) - 1e-9
        optimal += found == pytest.approx(best_of_all(name, s, q, r))
    assert optimal >= 3


@pytest.mark.parametrize("name", MATCHERS)
def test_objective_differs_from_the_distance_by_a_constant(name: str) -> None:
    s = spec([4, 3])
    matcher: Matcher = MATCHERS[name]
    q, r = gaussian(s, 0), gaussian(s, 1)
    result = matcher.match(q, r, s)
    increase = value(name, q, result.apply(r)) - value(name, q, r)
    factor = 2.0 if name == "wasserstein" else 1.0
    assert factor * (result.objective - result.identity_objective) == pytest.approx(increase)


def test_no_permutation_exceeds_the_bound() -> None:
    s = spec([4, 3])
    for seed in range(5):
        q, r = gaussian(s, seed), gaussian(s, seed + 100)
        bound = WeightMatcher().match(q, r, s).upper_bound
        assert bound is not None
        assert bound >= best_of_all("weight", s, q, r) - 1e-9


def test_the_bound_of_vectors_alone_is_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = ({"v": torch.randn(6, generator=generator, dtype=torch.float64)} for _ in range(2))
    found = WeightMatcher().match(PointPosterior(a), PointPosterior(b), table_spec({"v": "h"}, a))
    assert found.upper_bound == pytest.approx(found.objective)
    assert found.objective == pytest.approx((a["v"].sort().values * b["v"].sort().values).sum().item())
