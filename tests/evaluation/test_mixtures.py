"""Sampling from mixtures: each network once if possible, else systematic sampling of the components."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.evaluation.networks import SampledNetworks
from rebasin_core.posteriors import DiagonalGaussianPosterior, MixturePosterior, PointPosterior, SamplesPosterior


def points(count: int) -> list[PointPosterior]:
    g = torch.Generator().manual_seed(1)
    return [PointPosterior({"weight": torch.randn(2, 3, generator=g).double()}) for _ in range(count)]


def task() -> rc.Task:
    g = torch.Generator().manual_seed(2)
    inputs = torch.randn(40, 3, generator=g).double()
    return rc.Task(nn.Linear(3, 2, bias=False), [(inputs, torch.randint(2, (40,), generator=g))])


@pytest.mark.parametrize("num_samples", [5, 64])
def test_small_mixtures_use_each_network_once(num_samples: int) -> None:
    members, data = points(5), task()
    inputs, targets = next(iter(data.data))
    probabilities = torch.stack([(inputs @ member.mean["weight"].T).softmax(1) for member in members]).mean(0)
    exact = -probabilities[torch.arange(40), targets].log().mean().item()
    for posterior in (MixturePosterior(members), SamplesPosterior.from_points(members)):
        found = rc.score(posterior, data, num_samples=num_samples)
        assert found.nll == pytest.approx(exact, abs=1e-12)
        assert found.values["accuracy"] == pytest.approx((probabilities.argmax(1) == targets).double().mean().item())


def sampled(posterior: rc.Posterior, count: int, seed: int = 0) -> torch.Tensor:
    return torch.stack([tensors["weight"] for tensors in SampledNetworks(posterior, count, seed)]).flatten(1)


@pytest.mark.parametrize("kind", ["samples", "mixture"])
def test_fewer_samples_than_components_are_without_replacement(kind: str) -> None:
    members = points(12)
    posterior = SamplesPosterior.from_points(members) if kind == "samples" else MixturePosterior(members)
    for seed in range(20):
        assert len(sampled(posterior, 8, seed).unique(dim=0)) == 8
    networks = torch.cat([sampled(posterior, 3, seed) for seed in range(60)])
    assert len(networks.unique(dim=0)) == 12


def test_components_are_sampled_in_proportion_to_their_weights() -> None:
    far = [
        DiagonalGaussianPosterior(
            {"weight": torch.full((2, 3), value).double()}, {"weight": torch.full((2, 3), 0.01).double()}
        )
        for value in (-1.0, 0.0, 1.0)
    ]
    weights = torch.tensor([0.5, 0.3, 0.2])
    for posterior in (
        MixturePosterior(far, weights=weights),
        SamplesPosterior.from_points([PointPosterior(q.mean) for q in far], weights=weights),
    ):
        for seed in range(10):
            counts = torch.bincount(sampled(posterior, 150, seed)[:, 0].round().long() + 1)
            assert (counts - 150 * weights).abs().max() <= 1
        # The order is random: components are not sampled in blocks.
        assert len(sampled(posterior, 150)[:20, 0].round().unique()) == 3


def test_the_mean_over_seeds_is_the_mean_of_the_mixture() -> None:
    members = points(7)
    posterior = MixturePosterior(members)
    mean = torch.stack([sampled(posterior, 3, seed).mean(0) for seed in range(400)])
    error = mean.std(0) / 20
    assert ((mean.mean(0) - posterior.mean["weight"].flatten()).abs() < 5 * error).all()


@pytest.mark.statistics
def test_losses_for_different_batch_sizes_agree_within_the_stated_error() -> None:
    data = rc.build("dataset", "digits").load()
    model = rc.architectures.MLPArchitecture(hidden=[16]).build(
        data.input_shape, 10, generator=torch.Generator().manual_seed(0)
    )
    mean = {name: parameter.detach() for name, parameter in model.named_parameters()}
    posterior = DiagonalGaussianPosterior(mean, {name: torch.full_like(t, 0.1) for name, t in mean.items()})
    found = [rc.score(posterior, rc.Task(model, list(data.test.batches(size)))) for size in range(20, 340, 20)]
    losses = torch.tensor([one.nll for one in found])
    # Relative error of a standard deviation from 16 values: 18 %.
    assert losses.std().item() == pytest.approx(found[0].nll_stderr, rel=0.6)
