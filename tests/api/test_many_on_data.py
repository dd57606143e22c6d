"""Joint alignment by the loss of random averages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError


def network(seed: int, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(60), (x.prod(1) > 0).long().split(60), strict=True))


TASK = rc.Task(network(0), data())
SPEC = rc.trace_spec(network(0), torch.zeros(2, 2))


@pytest.fixture(scope="module")
def trained() -> list[rc.Posterior]:
    method = rc.inference.MAPInference(
        epochs=60, prior_scale=3.0, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=0.05)
    )
    return [method.fit(network(seed), data()).posterior for seed in (0, 1, 2)]


def test_planted_permutations_are_recovered(trained: list[rc.Posterior]) -> None:
    planted = [SPEC.random_permutation(generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    networks = [trained[0], *(p.apply(trained[0]) for p in planted)]
    found = rc.match_many_on_data(networks, SPEC, TASK, epochs=1)
    for index, permutation in enumerate(planted, 1):
        assert found.permutations[index].compose(permutation).is_identity
    assert found.trace[-1] == pytest.approx(0.0, abs=1e-10)
    assert min(found.losses) == pytest.approx(rc.score(trained[0], TASK).nll, rel=1e-5)


def test_the_result_is_the_best_epoch(trained: list[rc.Posterior]) -> None:
    found = rc.match_many_on_data(trained, SPEC, TASK, epochs=15, learning_rate=0.05)
    assert len(found.losses) == 16
    mean = {name: sum(q.mean[name] for q in found.posteriors) / 3 for name in trained[0].mean}
    assert rc.score(mean, TASK).nll == pytest.approx(min(found.losses), rel=1e-4)
    assert min(found.losses) <= found.losses[0]
    plain = {name: sum(q.mean[name] for q in trained) / 3 for name in trained[0].mean}
    assert min(found.losses) < rc.score(plain, TASK).nll


def test_permutations_preserve_the_functions(trained: list[rc.Posterior]) -> None:
    found = rc.match_many_on_data(trained, SPEC, TASK, epochs=3, learning_rate=0.05)
    for given, permuted in zip(trained, found.posteriors, strict=True):
        assert rc.score(permuted, TASK).nll == pytest.approx(rc.score(given, TASK).nll, rel=1e-5)


def test_invalid_input_raises_errors(trained: list[rc.Posterior]) -> None:
    with pytest.raises(InvalidInputError, match="at least two networks, got 1"):
        rc.match_many_on_data(trained[:1], SPEC, TASK)
    with pytest.raises(InvalidInputError, match="shape"):
        rc.match_many_on_data([trained[0], network(0, width=9)], SPEC, TASK)
    with pytest.raises(ConfigError, match="epochs"):
        rc.match_many_on_data(trained, SPEC, TASK, epochs=-1)
    other = rc.trace_spec(network(0, width=9), torch.zeros(2, 2))
    with pytest.raises(rc.RebasinError, match=r"9|size|shape"):
        rc.match_many_on_data(trained, other, TASK)
