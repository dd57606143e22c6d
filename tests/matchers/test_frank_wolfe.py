"""Frank-Wolfe, restarts, chains and portfolios, compared with brute force and coordinate descent."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from rebasin_core.matchers.frank_wolfe import ChannelNames

ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[24, 24, 24])


def network(seed: int) -> torch.nn.Module:
    return ARCHITECTURE.build((10,), 4, generator=torch.Generator().manual_seed(seed))


def objective(permutation: rc.Permutation, first: torch.nn.Module, second: torch.nn.Module) -> float:
    permuted = permutation.apply(dict(second.named_parameters()))
    return sum((p.double() * permuted[n].double()).sum().item() for n, p in first.named_parameters())


def test_objective_is_the_inner_product_and_mostly_above_coordinate_descent() -> None:
    better = 0
    for seed in range(6):
        first, second = network(seed), network(seed + 50)
        spec = ARCHITECTURE.spec(first)
        found = rc.match(first, second, spec, rc.matchers.FrankWolfeMatcher())
        assert found.objective == pytest.approx(objective(found.permutation, first, second), rel=1e-5)
        better += found.objective >= rc.match(first, second, spec, "weight").objective
    assert better >= 4


@pytest.mark.parametrize("start", ["identity", "uniform"])
@pytest.mark.parametrize("channels", ["mean", "moments"])
def test_planted_permutations_inside_heads_too(start: str, channels: ChannelNames) -> None:
    architecture = rc.architectures.ViTArchitecture(width=16, heads=2, depth=1, patch=8)
    model = architecture.build((3, 16, 16), 10, generator=torch.Generator().manual_seed(0))
    spec = architecture.spec(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    matcher = rc.matchers.FrankWolfeMatcher(start=start, channels=channels)
    found = rc.match(model, planted.apply(model), spec, matcher)
    assert found.permutation == planted.inverse()


def test_matchers_start_at_the_initial_permutation() -> None:
    first, second = network(0), network(1)
    spec = ARCHITECTURE.spec(first)
    reference, candidate = rc.as_posterior(first), rc.as_posterior(second)
    best = rc.matchers.WeightMatcher().match(reference, candidate, spec)
    again = rc.matchers.WeightMatcher().match(reference, candidate, spec, initial=best.permutation)
    assert again.permutation == best.permutation
    assert again.trace[0] == pytest.approx(best.objective)
    assert again.identity_objective == pytest.approx(best.identity_objective)
    stuck = rc.matchers.FrankWolfeMatcher(max_steps=0).match(reference, candidate, spec, initial=best.permutation)
    assert stuck.permutation == best.permutation
    other = rc.architectures.MLPArchitecture(hidden=[3]).spec(
        rc.architectures.MLPArchitecture(hidden=[3]).build((10,), 4)
    )
    with pytest.raises(InvalidInputError, match="belongs to another specification"):
        rc.matchers.WeightMatcher().match(reference, candidate, spec, initial=other.identity())


def test_restarts_are_never_worse() -> None:
    for seed in range(4):
        first, second = network(seed), network(seed + 50)
        spec = ARCHITECTURE.spec(first)
        one = rc.match(first, second, spec, "weight").objective
        assert (
            rc.match(
                first, second, spec, rc.matchers.RestartsMatcher(matcher=rc.matchers.WeightMatcher(), restarts=4)
            ).objective
            >= one
        )


def test_a_chain_starts_each_matcher_at_the_previous_result() -> None:
    first, second = network(0), network(1)
    spec = ARCHITECTURE.spec(first)
    chain = rc.matchers.ChainMatcher(matchers=[rc.matchers.FrankWolfeMatcher(), rc.matchers.WeightMatcher()])
    found = rc.match(first, second, spec, chain)
    assert found.trace[0] == pytest.approx(rc.match(first, second, spec, rc.matchers.FrankWolfeMatcher()).objective)


def test_a_portfolio_keeps_the_nearest_or_the_best() -> None:
    first, second = network(0), network(1)
    spec = ARCHITECTURE.spec(first)
    members = [rc.matchers.WeightMatcher(), rc.matchers.FrankWolfeMatcher()]
    found = rc.match(first, second, spec, rc.matchers.PortfolioMatcher(matchers=members))
    distances = [
        sum(
            (p.double() - m.double()).square().sum().item()
            for p, m in zip(
                first.parameters(), rc.match(first, second, spec, member).apply(second).parameters(), strict=True
            )
        )
        for member in members
    ]
    assert found.objective == pytest.approx(-min(distances), rel=1e-5)
    data = [(torch.randn(50, 10, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4)]
    by_loss = rc.match(
        first, second, spec, rc.matchers.PortfolioMatcher(matchers=members, select="loss"), task=rc.Task(first, data)
    )
    middle = rc.barycenter([rc.as_posterior(first), rc.as_posterior(by_loss.apply(second))])
    assert by_loss.objective == pytest.approx(-rc.score(middle, rc.Task(first, data)).nll, rel=1e-5)
    with pytest.raises(InvalidInputError, match="pass `task`"):
        rc.match(first, second, spec, rc.matchers.PortfolioMatcher(matchers=members, select="loss"))


def test_a_portfolio_by_loss_recomputes_batch_statistics() -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))
    spec, data = rc.trace_spec(first, torch.zeros(2, 10)), [(torch.randn(50, 10), torch.arange(50) % 4)]
    found = rc.match(
        first,
        second,
        spec,
        rc.matchers.PortfolioMatcher(matchers=[rc.matchers.WeightMatcher()], select="loss"),
        task=rc.Task(first, data),
    )
    merged = rc.merge([first, found.apply(second)], spec, task=rc.Task(first, data), matcher=None, repair="reset")
    assert found.objective == pytest.approx(-rc.score(merged.posterior, rc.Task(first, data)).nll, rel=1e-5)


def test_fisher_matching_minimizes_the_precision_weighted_distance() -> None:
    g = torch.Generator().manual_seed(0)

    def gaussian() -> rc.posteriors.DiagonalGaussianPosterior:
        mean = {"w": torch.randn(5, 3, generator=g, dtype=torch.float64)}
        return rc.posteriors.DiagonalGaussianPosterior(
            mean, {"w": 0.2 + torch.rand(5, 3, generator=g, dtype=torch.float64)}
        )

    first, second = gaussian(), gaussian()
    spec = rc.table_spec({"w": "h, -"}, first.mean)

    def cost(index: list[int]) -> float:
        precision = first.stddev["w"] ** -2 + second.stddev["w"][index] ** -2
        return (0.5 * precision * (first.mean["w"] - second.mean["w"][index]) ** 2).sum().item()

    best = min(permutations(range(5)), key=lambda p: cost(list(p)))
    found = rc.match(first, second, spec, "fisher")
    assert found.permutation.indices["h"].tolist() == list(best)
    assert found.objective - found.identity_objective == pytest.approx(cost(list(range(5))) - cost(list(best)))


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="max_steps: expected a value greater than or equal to 0, got -1"):
        rc.matchers.FrankWolfeMatcher(max_steps=-1)
    with pytest.raises(ConfigError, match="restarts: expected a value greater than 0, got 0"):
        rc.matchers.RestartsMatcher(matcher=rc.matchers.WeightMatcher(), restarts=0)
    for wrapper in (rc.matchers.ChainMatcher, rc.matchers.PortfolioMatcher):
        with pytest.raises(ConfigError, match=r"matchers: .* at least 1 item"):
            wrapper(matchers=[])


def test_norms_of_units_are_those_of_their_similarity_with_themselves() -> None:
    model = network(0)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    layout = ARCHITECTURE.spec(model).layout
    for similarity in rc.bilinear.unit_similarities(layout, tensors, tensors).values():
        torch.testing.assert_close(
            similarity.cosines.diagonal(), torch.ones_like(similarity.norms), rtol=1e-5, atol=1e-5
        )
