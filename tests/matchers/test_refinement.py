"""Refinement of linear maps by the loss between two networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers import RefinedMatcher, WeightMatcher
from rebasin_core.matchers.refinement import exponential
from rebasin_core.symmetry import Kind


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return classes that overlap: the loss at the midpoint is not zero."""
    g = torch.Generator().manual_seed(0)
    centers = 0.7 * torch.randn(3, 6, generator=g)
    y = torch.arange(180) % 3
    return list(zip((centers[y] + torch.randn(180, 6, generator=g)).split(60), y.split(60), strict=True))


def middle(first: nn.Module, second: nn.Module) -> float:
    center = rc.barycenter([rc.as_posterior(first), rc.as_posterior(second)])
    return rc.score(center, rc.Task(first, data())).nll


def trained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.RMSNorm(12), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    model[1].weight.requires_grad_(False)  # ruff: ignore[boolean-positional-value-in-call] - positional only
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(40):
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return trained(0), trained(1)


def test_refinement_lowers_the_loss_at_the_midpoint(pair: tuple[nn.Module, nn.Module]) -> None:
    first, second = pair
    task = rc.Task(first, data())
    spec = rc.trace_spec(first, torch.randn(2, 6))
    matched = rc.match(first, second, spec, WeightMatcher(symmetry="full"))
    assert matched.element is not None
    refined = rc.match(first, second, spec, RefinedMatcher(epochs=10, learning_rate=0.02), task=task)
    assert refined.objective == pytest.approx(-middle(first, refined.apply(second)), rel=1e-5)
    assert refined.identity_objective == pytest.approx(-middle(first, second), rel=1e-5)
    assert list(refined.trace) == sorted(refined.trace)
    assert -refined.objective < middle(first, matched.apply(second)) - 1e-3
    x = torch.randn(20, 6)
    assert torch.allclose(refined.apply(second)(x), second(x), atol=1e-4)
    with pytest.raises(InvalidInputError, match="pass `task`"):
        rc.match(first, second, spec, RefinedMatcher())


def test_without_linear_maps_the_result_is_that_of_the_matcher() -> None:
    model, other = (nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)) for _ in range(2))
    spec = rc.trace_spec(model, torch.randn(2, 6))
    found = rc.match(model, other, spec, RefinedMatcher(matcher=WeightMatcher()), task=rc.Task(model, data()))
    assert found.permutation == rc.match(model, other, spec, "weight").permutation
    assert found.element is None


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.is_sign])
def test_exponentials_are_maps_of_their_kind(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(2, *kind.map_shape(4), dtype=torch.float64, generator=generator)
    found = exponential(kind, direction)
    identity = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    if kind in {Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES}:
        assert torch.allclose(found @ found.mT, identity, atol=1e-12)
    if kind is Kind.ORTHOGONAL_FIXING_ONES:
        assert torch.allclose(found.sum(-1), torch.ones(2, 4, dtype=torch.float64), atol=1e-12)
    if kind is Kind.INVERTIBLE:
        assert torch.allclose(found @ exponential(kind, -direction), identity, atol=1e-10)
    if kind.is_factor:
        assert bool((found > 0).all())
    assert torch.allclose(exponential(kind, 0 * direction), exponential(kind, 0 * direction).round(), atol=1e-12)
