"""Ensembles, SWAG and MCMC chains, compared with exact results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from tests.evaluation.implementations import IMPLEMENTATIONS, OTHER_IMPLEMENTATIONS, as_outputs_inputs, layers

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def linear_regression() -> tuple[nn.Linear, Batches, torch.Tensor, torch.Tensor]:
    """Return a model, a correlated design, and the exact posterior mean and covariance."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.5
    prior = 0.8
    x = torch.randn(32, 2, generator=generator).double() @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double()
    y = x @ torch.tensor([[0.7], [-0.4]]).double() + noise * torch.randn(32, 1, generator=generator).double()
    covariance = torch.linalg.inv(x.T @ x / noise**2 + torch.eye(2).double() / prior**2)
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)  # independent of the global generator
    return model, [(x, y)], (covariance @ x.T @ y / noise**2).squeeze(1), covariance


def classes(count: int = 48) -> Batches:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % 3
    inputs = 2 * torch.eye(3)[targets] + torch.randn(count, 3, generator=generator)
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def network(*, norm: bool = False) -> nn.Module:
    middle: Sequence[nn.Module] = [nn.BatchNorm1d(5)] if norm else []
    return nn.Sequential(nn.Linear(3, 5), *middle, nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize(
    "method",
    [
        rc.inference.SGLD(epochs=2500, learning_rate=0.004, burn_in=300, prior_scale=0.8, chains=8),
        rc.inference.SGHMC(
            epochs=2500, learning_rate=0.0008, momentum_decay=0.1, burn_in=300, prior_scale=0.8, chains=8
        ),
    ],
    ids=["sgld", "sghmc"],
)
def test_chains_sample_the_exact_posterior_of_linear_regression(method: rc.Inference) -> None:
    model, data, mean, covariance = linear_regression()
    posterior = method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.5)).posterior
    assert isinstance(posterior, rc.posteriors.SamplesPosterior)
    samples = posterior.samples["weight"][:, 0]
    chain_means = torch.stack([samples[posterior.chains == k].mean(0) for k in range(8)])
    # The standard error is estimated from the means of independent chains.
    stderr = chain_means.std(0) / math.sqrt(8)
    assert bool(((samples.mean(0) - mean).abs() < 5 * stderr + 0.002).all())
    torch.testing.assert_close(torch.cov(samples.T), covariance, rtol=0.15, atol=0.15 * covariance.diag().mean().item())


def test_the_variance_of_a_cold_posterior_is_proportional_to_its_temperature() -> None:
    model, data, _, covariance = linear_regression()
    method = rc.inference.SGHMC(
        epochs=1500, learning_rate=0.0008, burn_in=300, prior_scale=0.8, chains=8, temperature=0.1
    )
    posterior = method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.5)).posterior
    expected = (0.1 * covariance.diag()).sqrt()
    torch.testing.assert_close(posterior.stddev["weight"][0], expected, rtol=0.2, atol=0)


def test_samples_are_collected_at_the_end_of_each_cycle() -> None:
    posterior = (
        rc.inference
        .SGHMC(epochs=12, cycles=3, exploration=0.5, thinning=2, chains=2)
        .fit(network(), classes())
        .posterior
    )
    assert isinstance(posterior, rc.posteriors.SamplesPosterior)
    # The last two of the four epochs of each cycle are sampled, thinned by 2.
    assert posterior.num_samples == 2 * 3
    assert posterior.chains.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("norm", [False, True])
def test_networks_trained_in_parallel_equal_those_trained_sequentially(*, norm: bool) -> None:
    model = network(norm=norm)
    data = classes()
    member = rc.inference.DeepEnsemble(members=3, epochs=4).fit(model, data).posterior
    sequential = rc.inference.DeepEnsemble(members=3, epochs=4, together=False).fit(model, data).posterior
    first = member.sample((1,), generator=torch.Generator().manual_seed(0))
    second = sequential.sample((1,), generator=torch.Generator().manual_seed(0))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-5)
    alone = rc.inference.MAPInference(epochs=4).fit(model, data).posterior
    assert isinstance(member, rc.posteriors.SamplesPosterior)
    torch.testing.assert_close(member.member(0).mean["0.weight"], alone.mean["0.weight"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(member.samples["0.weight"][0], member.samples["0.weight"][1])


def test_swag_has_the_moments_of_the_iterates() -> None:
    model = network()
    data = classes()
    optimizer = rc.inference.OptimizerSpec(name="SGD", lr=0.1)
    iterates = [
        rc.inference.MAPInference(epochs=n, optimizer=optimizer).fit(model, data).posterior.mean["0.weight"]
        for n in (4, 5, 6, 7)
    ]
    swag = rc.inference.SWAG(epochs=7, start=3, rank=3, optimizer=optimizer).fit(model, data).posterior
    assert isinstance(swag, rc.posteriors.LowRankGaussianPosterior)
    stacked = torch.stack(iterates)
    torch.testing.assert_close(swag.mean["0.weight"], stacked.mean(0))
    diagonal = (0.5 * stacked.var(0, correction=0)).sqrt()
    torch.testing.assert_close(swag.diagonal["0.weight"], diagonal, rtol=1e-3, atol=1e-7)
    running = torch.stack([stacked[: n + 1].mean(0) for n in range(4)])
    deviations = (stacked - running)[1:] * math.sqrt(0.5 / 2)
    rows = swag.factor["0.weight"]
    # The rows are a ring buffer; the distribution does not depend on their order.
    gram = [t.flatten(1).T @ t.flatten(1) for t in (rows, deviations)]
    torch.testing.assert_close(gram[0], gram[1], rtol=1e-3, atol=1e-8)


def test_swag_recomputes_normalization_statistics_at_its_mean() -> None:
    model = network(norm=True)
    data = classes()
    swag = rc.inference.SWAG(epochs=6, rank=2).fit(model, data).posterior
    hidden = [x @ swag.mean["0.weight"].T + swag.mean["0.bias"] for x, _ in data]
    expected = torch.stack([h.mean(0) for h in hidden]).mean(0)
    torch.testing.assert_close(swag.buffers["1.running_mean"], expected, rtol=1e-4, atol=1e-5)


def test_multi_swag_is_a_mixture() -> None:
    posterior = rc.inference.SWAG(epochs=6, rank=2, members=3).fit(network(), classes()).posterior
    assert isinstance(posterior, rc.posteriors.MixturePosterior)
    assert [q.kind for q in posterior.components] == ["low_rank_gaussian"] * 3


@pytest.mark.parametrize("implementation", OTHER_IMPLEMENTATIONS)
def test_dropout_does_not_depend_on_how_a_network_is_written(implementation: str) -> None:
    data = [(x.double(), y) for x, y in classes()]
    models = [IMPLEMENTATIONS[name](layers((3, 7, 6, 3))) for name in ("linear", implementation)]
    fits = [rc.inference.MCDropout(rate=0.3, epochs=3).fit(model, data) for model in models]
    assert fits[1].history == pytest.approx(fits[0].history, rel=1e-9)
    means = [as_outputs_inputs(model, fit.posterior.mean) for model, fit in zip(models, fits, strict=True)]
    torch.testing.assert_close(means[1], means[0])
    posterior = fits[1].posterior
    assert isinstance(posterior, rc.posteriors.MultiplicativeNoisePosterior)
    weights = [n for n, p in models[1].named_parameters() if p.dim() > 1][1:]
    assert [noise.targets[0][0] for noise in posterior.noise] == weights
    # A sample drops whole input columns of the weight.
    sample = as_outputs_inputs(models[1], posterior.sample(generator=torch.Generator().manual_seed(0)))[2]
    ratios = sample / as_outputs_inputs(models[1], posterior.mean)[2]
    assert bool((ratios.std(0) < 1e-12).all())
    assert set(ratios[0].mul(0.7).round(decimals=9).tolist()) == {0.0, 1.0}


def test_dropout_of_channels_and_attention() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(1, 4, 3), nn.Conv1d(4, 6, 3)
            self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.second(self.first(x[:, None]).relu()).transpose(1, 2)
            mixed = self.attention(hidden, hidden, hidden)[0]
            output: torch.Tensor = self.head(mixed.mean(1))
            return output

    data = [(x.repeat(1, 3), y) for x, y in classes()]
    posterior = rc.inference.MCDropout(epochs=1).fit(Sequences(), data).posterior
    assert isinstance(posterior, rc.posteriors.MultiplicativeNoisePosterior)
    expected = ["second.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    assert [noise.targets for noise in posterior.noise] == [((name, 1),) for name in expected]
    chosen = rc.inference.MCDropout(epochs=1, layers=["second", "attention.in_*"]).fit(Sequences(), data).posterior
    assert isinstance(chosen, rc.posteriors.MultiplicativeNoisePosterior)
    assert [noise.targets for noise in chosen.noise] == [((name, 1),) for name in expected[:2]]


def test_a_warning_names_weights_without_dropout() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.cell, self.head = nn.Linear(3, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.head(self.cell(self.up(x)[:, None])[0][:, 0])
            return output

    with pytest.warns(rc.RebasinWarning, match="`cell.weight_hh_l0`"):
        rc.inference.MCDropout(epochs=1).fit(Recurrent(), classes())


def test_dropout_applies_to_the_inputs_of_later_layers() -> None:
    posterior = rc.inference.MCDropout(rate=0.25, epochs=2).fit(network(), classes()).posterior
    assert isinstance(posterior, rc.posteriors.MultiplicativeNoisePosterior)
    sample = posterior.sample((400,), generator=torch.Generator().manual_seed(0))["2.weight"]
    dropped = (sample == 0).all(1).float().mean().item()
    assert abs(dropped - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)


def test_early_stopping_restores_the_best_epoch(tmp_path: Path) -> None:
    data = classes()
    noisy = [(x, torch.randint(3, (len(y),), generator=torch.Generator().manual_seed(5))) for x, y in data]
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 3))
    options: dict[str, Any] = {
        "epochs": 200,
        "patience": 3,
        "optimizer": rc.inference.OptimizerSpec(name="Adam", lr=0.02),
    }
    method = rc.inference.MAPInference(**options)
    fit = method.fit(model, noisy, validation=data, checkpoint=tmp_path / "c.safetensors")
    best = min(range(len(fit.validation)), key=fit.validation.__getitem__)
    assert len(fit.history) == best + 4 < 200
    loss = rc.barrier(fit.posterior, fit.posterior, rc.Task(model, data), num_points=3).loss[0]
    assert loss == pytest.approx(fit.validation[best], rel=1e-4)
    resumed = method.fit(model, noisy, validation=data, checkpoint=tmp_path / "c.safetensors")
    assert resumed.validation == fit.validation
    assert torch.equal(resumed.posterior.mean["0.weight"], fit.posterior.mean["0.weight"])
    with pytest.raises(rc.RebasinError, match="`patience=3` requires validation data"):
        method.fit(model, noisy)


def test_heteroscedastic_noise_is_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, generator=generator) * 2 - 1
    scale = torch.where(x > 0, 1.0, 0.1)
    data = [(x, scale * torch.randn(400, 1, generator=generator))]
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
    method = rc.inference.MAPInference(epochs=600, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=0.02))
    point = method.fit(model, data, likelihood="heteroscedastic").posterior
    raw = torch.func.functional_call(model, point.mean, (torch.tensor([[-0.5], [0.5]]),))[:, 1]
    assert torch.nn.functional.softplus(raw).tolist() == pytest.approx([0.1, 1.0], rel=0.4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rc.inference.DeepEnsemble(members=1), "members: expected a value greater than or equal to 2, got 1"),
        (
            lambda: rc.inference.DeepEnsemble(optimizer=rc.inference.OptimizerSpec(name="Adafactor", lr=0.1)),
            "expected a coordinate-wise optimizer to train 5 networks in parallel, got 'Adafactor'; choose one of",
        ),
        (
            lambda: rc.inference.SnapshotEnsemble(members=3, epochs=10),
            "expected `epochs` to be a multiple of `members`, got 10 and 3",
        ),
        (lambda: rc.inference.SWAG(epochs=4, start=3), "at least 2 epochs after `start`, got start=3 and epochs=4"),
        (lambda: rc.inference.SGLD(epochs=10, burn_in=20), "one sample per chain, got none in 10 epochs with burn_in"),
        (lambda: rc.inference.SGHMC(momentum_decay=0.0), "momentum_decay: expected a value greater than 0, got 0.0"),
        (lambda: rc.inference.MCDropout(rate=1.0), "rate: expected a value less than 1, got 1.0"),
        (lambda: rc.inference.MCDropout().fit(nn.Linear(3, 3), classes()), "layer after the first for dropout, got"),
        (lambda: rc.inference.DeepEnsemble(epochs=1).fit(Own(), classes()), "none in `` \\(Own\\), which owns param"),
    ],
)
def test_invalid_options_raise(make: Callable[[], object], message: str) -> None:
    with pytest.raises(rc.RebasinError, match=message):
        make()


class Own(nn.Module):
    """Module with a parameter and without `reset_parameters`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
