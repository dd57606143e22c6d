"""Matchers that minimize a loss on data, and joint alignment of many networks."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError

ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[16])
LEARNED: dict[str, rc.Matcher] = {
    "straight_through": rc.matchers.StraightThroughMatcher(epochs=4, learning_rate=0.01),
    "sinkhorn midpoint": rc.matchers.SinkhornMatcher(loss="midpoint", epochs=8),
    "sinkhorn random": rc.matchers.SinkhornMatcher(loss="random", epochs=8),
    "annealing": rc.matchers.AnnealingMatcher(steps=150),
}


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(3, 6, generator=g)
    y = torch.arange(180) % 3
    return list(zip((centers[y] + torch.randn(180, 6, generator=g)).split(60), y.split(60), strict=True))


def trained(seed: int) -> nn.Module:
    model = ARCHITECTURE.build((6,), 3, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return trained(0), trained(1)


def middle_loss(first: nn.Module, second: nn.Module) -> float:
    middle = rc.barycenter([rc.as_posterior(first), rc.as_posterior(second)])
    return rc.score(middle, rc.Task(first, data())).nll


@pytest.mark.parametrize("name", LEARNED)
def test_the_objective_is_minus_the_midpoint_loss_and_increases(name: str, pair: tuple[nn.Module, nn.Module]) -> None:
    first, second = pair
    found = rc.match(first, second, ARCHITECTURE.spec(first), LEARNED[name], task=rc.Task(first, data()))
    assert found.objective == pytest.approx(-middle_loss(first, found.apply(second)), rel=1e-5)
    assert found.identity_objective == pytest.approx(-middle_loss(first, second), rel=1e-5)
    assert found.objective > found.identity_objective
    assert list(found.trace) == sorted(found.trace)
    with pytest.raises(InvalidInputError, match="pass `task`"):
        rc.match(first, second, ARCHITECTURE.spec(first), LEARNED[name])


@pytest.mark.parametrize("name", LEARNED)
def test_a_loss_that_is_nan_is_an_error(name: str, pair: tuple[nn.Module, nn.Module]) -> None:
    batch = (torch.full((4, 6), math.nan), torch.arange(4) % 3)
    with pytest.raises(InvalidInputError, match=r"non-finite loss nan .*; check for NaN inputs"):
        rc.match(*pair, ARCHITECTURE.spec(pair[0]), LEARNED[name], task=rc.Task(pair[0], [batch]))


def test_learned_matching_does_not_lose_to_weight_matching(pair: tuple[nn.Module, nn.Module]) -> None:
    first, second = pair
    spec = ARCHITECTURE.spec(first)
    by_weight = middle_loss(first, rc.match(first, second, spec, "weight").apply(second))
    found = rc.match(first, second, spec, LEARNED["straight_through"], task=rc.Task(first, data()))
    assert -found.objective <= by_weight + 1e-6


def test_distributions_are_sampled_at_the_midpoint(pair: tuple[nn.Module, nn.Module]) -> None:
    first, second = (
        rc.posteriors.DiagonalGaussianPosterior(
            {n: p.detach() for n, p in m.named_parameters()},
            {n: torch.full_like(p, 0.05) for n, p in m.named_parameters()},
        )
        for m in pair
    )
    spec = ARCHITECTURE.spec(pair[0])
    found = rc.match(first, second, spec, LEARNED["straight_through"], task=rc.Task(pair[0], data()))
    assert found.objective > found.identity_objective
    again = rc.match(first, second, spec, LEARNED["straight_through"], task=rc.Task(pair[0], data()))
    assert again.permutation == found.permutation


@pytest.mark.parametrize("name", LEARNED)
def test_batch_normalization_uses_the_statistics_of_the_batch(name: str) -> None:
    def normalized(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(8)
        norm.load_state_dict({"running_var": torch.full((8,), 1e-6)}, strict=False)  # as wrong as interpolated ones
        return nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()

    first, second = normalized(0), normalized(1)
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    spec = rc.trace_spec(first, torch.zeros(2, 6))
    found = rc.match(first, second, spec, LEARNED[name], task=rc.Task(first, data()))
    aligned = found.apply(second)
    middle = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    endpoints = [[*network.parameters()] for network in (first, aligned)]
    with torch.no_grad():
        for own, *both in zip(middle.parameters(), *endpoints, strict=True):
            own.copy_((both[0] + both[1]) / 2)
    loss = sum(nn.functional.cross_entropy(middle(x), y).item() for x, y in data()) / len(data())
    assert found.objective == pytest.approx(-loss, rel=1e-5)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in before.items())


def test_sinkhorn_by_weights_recovers_a_planted_permutation(pair: tuple[nn.Module, nn.Module]) -> None:
    spec = ARCHITECTURE.spec(pair[0])
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(3))
    found = rc.match(pair[0], planted.apply(pair[0]), spec, "sinkhorn")
    assert found.permutation == planted.inverse()


def test_sinkhorn_recovers_permutations_of_heads_and_of_the_width_inside_them() -> None:
    architecture = rc.architectures.ViTArchitecture(patch=4, width=9, depth=1, heads=3, hidden=6)
    model = architecture.build((3, 8, 8), 3, generator=torch.Generator().manual_seed(0)).double()
    for number, parameter in enumerate(model.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        parameter.data += 0.3 * noise
    spec, reference = architecture.spec(model), rc.posteriors.PointPosterior.from_module(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(4))
    matcher = rc.matchers.SinkhornMatcher(loss="weights", epochs=12)
    result = matcher.match(reference, planted.apply(reference), spec)
    assert result.permutation == planted.inverse()


def test_alignment_of_many_copies_is_exact_and_cycle_consistent() -> None:
    architecture = rc.architectures.MLPArchitecture(hidden=[16, 16])
    model = architecture.build((6,), 3, generator=torch.Generator().manual_seed(0))
    spec = architecture.spec(model)
    g = torch.Generator().manual_seed(1)
    planted = [spec.random_permutation(generator=g) for _ in range(6)]
    found = rc.match_many([p.apply(model) for p in planted], spec)
    assert found.trace[-1] < 1e-9 * found.trace[0]
    cycle = found.between(0, 3).compose(found.between(3, 5)).compose(found.between(5, 0))
    assert cycle.is_identity
    assert found.between(2, 4) == planted[2].inverse().compose(planted[4])


@pytest.mark.parametrize("matcher", ["weight", "frank_wolfe"])
def test_the_mean_squared_distance_never_increases(matcher: str) -> None:
    models = [trained(seed) for seed in range(4)]
    spec = ARCHITECTURE.spec(models[0])
    found = rc.match_many(models, spec, matcher=matcher)
    assert list(found.trace) == sorted(found.trace, reverse=True)
    plain = rc.barycenter([rc.as_posterior(m) for m in models])
    assert rc.score(found.center, rc.Task(models[0], data())).nll < rc.score(plain, rc.Task(models[0], data())).nll
    samples = rc.posteriors.SamplesPosterior({
        n: torch.stack([dict(m.named_parameters())[n].detach() for m in models])
        for n, _ in models[0].named_parameters()
    })
    assert rc.match_many(samples, spec, matcher=matcher).trace[-1] == pytest.approx(found.trace[-1], rel=1e-3)
    with pytest.raises(InvalidInputError, match="at least one network"):
        rc.match_many([], spec)


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="epochs: expected a value greater than 0, got 0"):
        rc.matchers.StraightThroughMatcher(epochs=0)
    with pytest.raises(ConfigError, match="loss: expected 'weights', 'midpoint' or 'random'"):
        rc.matchers.SinkhornMatcher(loss=cast("Any", "loss"))
    with pytest.raises(ConfigError, match="temperature: expected a finite number, got inf"):
        rc.matchers.AnnealingMatcher(temperature=math.inf)
    with pytest.raises(ConfigError, match=r"expected a `final_temperature` of at most `temperature` = 0.01, got 1.0"):
        rc.matchers.AnnealingMatcher(final_temperature=1.0)
