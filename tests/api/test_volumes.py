"""Trained volumes of low loss, and trained centers of stars."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, DivergenceError, InvalidInputError
from rebasin_core.posteriors import PointPosterior


def network(seed: int, width: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(60), (x.prod(1) > 0).long().split(60), strict=True))


TASK = rc.Task(network(0), data())


@pytest.fixture(scope="module")
def trained() -> list[rc.Posterior]:
    method = rc.inference.MAPInference(
        epochs=60, prior_scale=3.0, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=0.05)
    )
    return [method.fit(network(seed), data()).posterior for seed in (0, 1, 2)]


def test_a_trained_volume_connects_networks(trained: list[rc.Posterior]) -> None:
    hull = rc.hull_losses(trained[:2], TASK, num_points=40)
    found = rc.fit_simplex(trained[:2], TASK, num_connectors=2, epochs=60, learning_rate=0.05)
    losses = rc.simplex_losses(found, TASK, num_points=40)
    assert len(losses.loss) == 44
    assert losses.excess[4:].max() < 0.5 * hull.excess.max()
    assert losses.loss[:2].tolist() == pytest.approx([rc.score(q, TASK).nll for q in trained[:2]], rel=1e-5)
    assert losses.excess[:4].abs().max() < 1e-9


def test_the_volume_term_increases_the_volume(trained: list[rc.Posterior]) -> None:
    volumes = [
        rc.fit_simplex(trained[:1], TASK, num_connectors=2, epochs=20, regularization=weight).log_volume
        for weight in (0.0, 0.01, 1.0)
    ]
    assert volumes[0] < volumes[1] < volumes[2]


def test_the_segment_of_a_quadratic_has_the_length_in_closed_form() -> None:
    # The loss is |w|^2 / 2 up to a constant, and the network is at 0. On the segment to v, E t^2 |v|^2 / 2 = |v|^2 / 6,
    # minus lambda log |v|: the minimum is at |v|^2 = 3 lambda.
    model = nn.Linear(2, 2, bias=False)
    inputs = torch.eye(2) * 2**0.5  # the mean of |w x|^2 / 2 over both examples is |w|^2 / 2
    task = rc.Task(model, [(inputs, torch.zeros(2, 2))] * 100, rc.evaluation.GaussianLikelihood(scale=1.0))
    origin = PointPosterior({"weight": torch.zeros(2, 2)})
    found = rc.fit_simplex([origin], task, epochs=20, learning_rate=0.05, regularization=0.12)
    assert found.connectors[0].mean["weight"].norm().item() ** 2 == pytest.approx(0.36, rel=0.15)


def test_ensembles_over_the_volume_are_scored(trained: list[rc.Posterior]) -> None:
    found = rc.fit_simplex(trained[:1], TASK, num_connectors=2, epochs=20)
    assert found.vertices[0].mean["0.weight"].equal(trained[0].mean["0.weight"])
    ensemble = found.posterior(10, generator=torch.Generator().manual_seed(1))
    assert rc.score(ensemble, TASK, num_samples=10).nll < 0.69
    assert not ensemble.samples["0.weight"][0].equal(ensemble.samples["0.weight"][1])


def test_a_trained_center_lowers_the_barriers_of_a_star(trained: list[rc.Posterior]) -> None:
    mean = rc.star(trained, TASK, num_points=11)
    center = rc.fit_center(trained, TASK, epochs=80, learning_rate=0.05)
    found = rc.star(trained, TASK, center=center.center, num_points=11)
    assert (mean.is_barycenter, found.is_barycenter) == (True, False)
    assert max(c.loss[5] for c in found.curves) < 0.7 * max(c.loss[5] for c in mean.curves)
    assert center.history[-1] < center.history[0]


def test_the_center_of_quadratic_losses_is_the_optimum_in_closed_form() -> None:
    # E ((1 - t) c + t w)^2 is minimal at c = -w E[t (1 - t)] / E[(1 - t)^2] = -w / 2, with the mean w of the networks.
    model = nn.Linear(1, 1, bias=False)
    task = rc.Task(model, [(torch.ones(4, 1), torch.zeros(4, 1))] * 50, rc.evaluation.GaussianLikelihood(scale=1.0))
    networks = [PointPosterior({"weight": torch.tensor([[value]])}) for value in (1.0, 1.0, 4.0)]
    found = rc.fit_center(networks, task, epochs=60, learning_rate=0.1)
    assert found.center.mean["weight"].item() == pytest.approx(-1.0, abs=0.1)


def test_results_are_reproducible_and_networks_unchanged(trained: list[rc.Posterior]) -> None:
    before = trained[0].mean
    found = [rc.fit_simplex(trained[:1], TASK, epochs=2, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    torch.testing.assert_close(found[0].connectors[0].mean, found[1].connectors[0].mean, rtol=0, atol=0)
    torch.testing.assert_close(trained[0].mean, before, rtol=0, atol=0)


def test_invalid_input_raises_errors(trained: list[rc.Posterior]) -> None:
    with pytest.raises(InvalidInputError, match="at least 1 networks, got 0"):
        rc.fit_simplex([], TASK)
    with pytest.raises(InvalidInputError, match="shape"):
        rc.fit_center([trained[0], network(0, width=13)], TASK)
    with pytest.raises(InvalidInputError, match="empty"):
        rc.fit_center(trained, rc.Task(network(0), []))
    with pytest.raises(ConfigError, match="num_connectors"):
        rc.fit_simplex(trained, TASK, num_connectors=0)
    with pytest.raises(ConfigError, match="learning_rate"):
        rc.fit_center(trained, TASK, learning_rate=-1.0)
    with pytest.raises(DivergenceError, match="vertex 1"):
        rc.fit_simplex(trained[:1], TASK, learning_rate=1e37)
    with pytest.raises(InvalidInputError, match="fit_simplex"):
        rc.simplex_losses(trained, TASK)  # type: ignore[arg-type] # the error under test
