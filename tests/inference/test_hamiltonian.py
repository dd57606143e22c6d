"""Hamiltonian Monte Carlo, compared with exact posteriors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.analysis import diagnose_chains
from rebasin_core.errors import ConfigError, DivergenceError, InvalidInputError, SamplerWarning
from rebasin_core.evaluation.likelihoods import GaussianLikelihood
from rebasin_core.inference import HMC, NUTS, FitResult, SamplerStatistics
from tests.inference.test_methods import classes, linear_regression, network

Method = type[HMC] | type[NUTS]
NOISE = GaussianLikelihood(scale=0.5)
BOTH = pytest.mark.parametrize("method", [HMC, NUTS])


def samples_of(fit: FitResult) -> rc.posteriors.SamplesPosterior:
    assert isinstance(fit.posterior, rc.posteriors.SamplesPosterior)
    return fit.posterior


def statistics_of(fit: FitResult) -> SamplerStatistics:
    assert fit.sampler is not None
    return fit.sampler


@pytest.mark.statistics
@BOTH
def test_linear_regression_has_the_exact_moments(method: Method) -> None:
    """Errors below five standard errors: false alarms in less than 1 of 10,000 runs."""
    model, data, mean, covariance = linear_regression()
    fit = method(prior_scale=0.8, warmup=150, draws=300).fit(model, data, likelihood=NOISE)
    samples = samples_of(fit)
    found = diagnose_chains(samples)
    effective = found.ess["weight"].min().item()
    draws = samples.samples["weight"].squeeze(1)
    assert effective > 200
    assert found.rhat["weight"].max().item() < 1.03
    error = (draws.mean(0) - mean) / covariance.diagonal().sqrt()
    assert error.abs().max().item() < 5 / math.sqrt(effective)
    # Whitened draws have unit covariance, whose entries have standard errors of at most sqrt(2 / n).
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).mT, upper=False)
    assert (whitened.cov() - torch.eye(2)).abs().max().item() < 5 * math.sqrt(2 / effective)
    assert statistics_of(fit).divergences == (0, 0, 0, 0)
    assert min(statistics_of(fit).energy_bfmi) > 0.5
    assert 0.6 < np.mean(statistics_of(fit).acceptance) < 1


def whole_batch() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.cat([x for x, _ in classes()]), torch.cat([y for _, y in classes()]))]


class Logistic(nn.Module):
    """Logistic regression with two coefficients."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = x @ self.weight
        return torch.stack([torch.zeros_like(logits), logits], -1)


@pytest.mark.statistics
@BOTH
def test_logistic_regression_has_the_moments_of_quadrature(method: Method) -> None:
    """Errors below five standard errors: false alarms in less than 1 of 10,000 runs."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(15, 2, generator=generator).double()
    y = (x @ torch.tensor([2.0, -1.0]).double() > 0).long()
    grid = torch.linspace(-8, 12, 401).double()
    points = torch.cartesian_prod(grid, grid)
    logits = points @ x.T
    logs = -functional.softplus(torch.where(y == 1, -logits, logits)).sum(1) - points.square().sum(1) / (2 * 4)
    weights = logs.softmax(0)
    mean = weights @ points
    stddev = (weights @ (points - mean) ** 2).sqrt()
    fit = method(prior_scale=2.0, warmup=150, draws=300).fit(Logistic(), [(x[:9], y[:9]), (x[9:], y[9:])])
    samples = samples_of(fit)
    effective = diagnose_chains(samples).ess["weight"].min().item()
    assert effective > 150
    draws = samples.samples["weight"]
    assert ((draws.mean(0) - mean) / stddev).abs().max().item() < 5 / math.sqrt(effective)
    # The posterior is skewed: the variance of the square is larger than that of a Gaussian, by less than a factor 4.
    assert (draws.std(0) / stddev - 1).abs().max().item() < 5 * math.sqrt(2 / effective)


def plain_loop(data: list[tuple[torch.Tensor, torch.Tensor]], step: float, steps: int, draws: int) -> torch.Tensor:
    """Return draws of a loop over transitions of one chain, written as in a textbook."""
    x, y = data[0]
    generator = torch.Generator().manual_seed(7)

    def energy(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual = x @ w - y.squeeze(1)
        return residual.square().sum() / 0.5 + w.square().sum() / 1.28, x.T @ residual / 0.25 + w / 0.64

    w = torch.zeros(2).double()
    chain = []
    for _ in range(draws):
        r = torch.randn(2, generator=generator).double()
        new = w
        before = energy(w)[0] + r.square().sum() / 2
        for _ in range(steps):
            r -= step / 2 * energy(new)[1]
            new = step * r + new
            r -= step / 2 * energy(new)[1]
        after = energy(new)[0] + r.square().sum() / 2
        if torch.rand((), generator=generator) < (before - after).exp():
            w = new
        chain.append(w)
    return torch.stack(chain)


@pytest.mark.nightly
def test_the_effective_sample_size_per_gradient_is_that_of_a_plain_loop() -> None:
    model, data, _, _ = linear_regression()
    step, steps, draws = 0.06, 3, 1200
    fixed: dict[str, Any] = {"step_size": step, "adapt": False, "leapfrog_steps": steps, "jitter": 0}
    fit = HMC(prior_scale=0.8, chains=1, warmup=0, draws=draws, **fixed).fit(model, data, likelihood=NOISE)
    assert statistics_of(fit).gradients == draws * steps + 1
    parts = torch.arange(4).repeat_interleave(draws // 4)  # ArviZ needs several chains
    ess = [
        diagnose_chains(rc.posteriors.SamplesPosterior({"w": chain}, chains=parts)).ess["w"].mean().item()
        for chain in (samples_of(fit).samples["weight"][:, 0], plain_loop(data, step, steps, draws))
    ]
    assert ess[0] > 0.8 * ess[1]


@pytest.mark.nightly
def test_adaptation_raises_the_effective_sample_size_per_gradient() -> None:
    """Posterior scales that differ by a factor of 6: a mass matrix needs few steps for both."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator).double() * torch.tensor([1.0, 6.0]).double()
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    rates = []
    for mass in ("diagonal", "identity"):
        fit = NUTS(mass_matrix=mass, warmup=100, draws=60).fit(model, [(x, x[:, :1])], likelihood=NOISE)
        ess = diagnose_chains(samples_of(fit)).ess["weight"].min().item()
        rates.append(ess / np.mean(statistics_of(fit).leapfrog_steps))
    assert rates[0] > 1.5 * rates[1]


@pytest.mark.nightly
@pytest.mark.statistics
@BOTH
def test_fits_are_calibrated(method: Method) -> None:
    """Simulation-based calibration (Talts et al. 2018) with adaptation; false alarms: 1 in 1,000 per parameter."""
    model = nn.Linear(1, 1).double()
    draws, count = 19, 200
    generator = torch.Generator().manual_seed(11)
    ranks = []
    for _ in range(count):
        weight, bias = torch.randn(2, generator=generator, dtype=torch.float64)
        x = torch.randn(8, 1, generator=generator, dtype=torch.float64)
        y = weight * x + bias + 0.5 * torch.randn(8, 1, generator=generator, dtype=torch.float64)
        fit = method(chains=1, warmup=150, draws=draws, thinning=4).fit(
            model, [(x, y)], likelihood=NOISE, generator=generator
        )
        samples = samples_of(fit).samples
        ranks.append([int((samples["weight"] < weight).sum()), int((samples["bias"] < bias).sum())])
    for found in np.array(ranks).T:
        counts = np.bincount(found, minlength=draws + 1).reshape(10, 2).sum(1)
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.statistics
def test_a_cold_posterior_is_narrower() -> None:
    """Five standard errors: false alarms in less than 1 of 10,000 runs."""
    model, data, _, covariance = linear_regression()
    fit = NUTS(prior_scale=0.8, warmup=100, draws=100, temperature=0.01).fit(model, data, likelihood=NOISE)
    draws = samples_of(fit).samples["weight"].squeeze(1)
    ratios = draws.var(0) / covariance.diagonal()
    assert ratios.tolist() == pytest.approx([0.01, 0.01], rel=5 * math.sqrt(2 / 200))


@BOTH
def test_draws_do_not_depend_on_batches_nor_on_how_chains_run(method: Method) -> None:
    x, y = whole_batch()[0]
    model = network().double()
    options: dict[str, Any] = {"chains": 3, "warmup": 4, "draws": 4, "step_size": 0.05}
    fits = [
        method(**options, together=together).fit(model, data)
        for together, data in ((True, [(x, y)]), (False, [(x[:7], y[:7]), (x[7:], y[7:])]))
    ]
    for name, tensor in samples_of(fits[0]).samples.items():
        torch.testing.assert_close(samples_of(fits[1]).samples[name], tensor, rtol=1e-6, atol=1e-8)


def test_draws_keep_the_dtype_and_the_buffers_of_the_model() -> None:
    model = network(norm=True)
    for batch, _ in classes():
        model(batch)
    fixed: dict[str, Any] = {"step_size": 0.01, "adapt": False, "warmup": 0}
    fit = HMC(chains=2, draws=3, dtype="float64", **fixed).fit(model, classes())
    samples = samples_of(fit)
    assert samples.dtype == torch.float32
    assert samples.chains.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(samples.buffers["1.running_mean"], dict(model.named_buffers())["1.running_mean"])
    single = HMC(chains=2, draws=3, **fixed).fit(model.bfloat16(), classes())
    assert single.posterior.dtype == torch.bfloat16


def test_a_warm_start_is_at_map_estimates() -> None:
    options: dict[str, Any] = {"warmup": 1, "draws": 1, "step_size": 1e-3, "leapfrog_steps": 1}
    cold = HMC(**options).fit(network(), classes())
    for chains in (1, 3):
        warm = HMC(**options, chains=chains, warm_start=True, warm_start_epochs=30).fit(network(), classes())
        assert warm.history[0] < 0.7 * cold.history[0]


def test_thinning_keeps_every_nth_transition() -> None:
    model, data, _, _ = linear_regression()
    every = samples_of(HMC(warmup=5, draws=12, step_size=0.05, chains=2).fit(model, data, likelihood=NOISE))
    third = samples_of(HMC(warmup=5, draws=4, thinning=3, step_size=0.05, chains=2).fit(model, data, likelihood=NOISE))
    kept = every.samples["weight"].reshape(2, 12, 1, 2)[:, 2::3].flatten(0, 1)
    assert torch.equal(third.samples["weight"], kept)


class Interrupted(nn.Linear):
    """Linear layer that raises `KeyboardInterrupt` after a number of calls."""

    remaining: ClassVar[int] = 10**9

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        type(self).remaining -= 1
        if not type(self).remaining:
            raise KeyboardInterrupt
        return super().forward(input)


@pytest.mark.filterwarnings("ignore::rebasin_core.errors.SamplerWarning")  # few transitions
@BOTH
@pytest.mark.parametrize("calls", [100, pytest.param(300, marks=pytest.mark.nightly)])
def test_an_interrupted_run_resumes(method: Method, calls: int, tmp_path: Path) -> None:
    data = whole_batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(Interrupted(3, 4), nn.Tanh(), nn.Linear(4, 3))
    path = tmp_path / "chains.safetensors"
    fit = method(chains=2, warmup=24, draws=8, step_size=0.2)
    whole = fit.fit(model, data, generator=torch.Generator().manual_seed(4))
    Interrupted.remaining = calls
    with pytest.raises(KeyboardInterrupt):
        fit.fit(model, data, generator=torch.Generator().manual_seed(4), checkpoint=path)
    resumed = fit.fit(model, data, generator=torch.Generator().manual_seed(4), checkpoint=path)
    assert 0 < resumed.resumed_at < 32
    assert resumed.history == whole.history
    assert statistics_of(resumed).divergences == statistics_of(whole).divergences
    assert statistics_of(resumed).gradients == statistics_of(whole).gradients
    for name, tensor in samples_of(whole).samples.items():
        assert torch.equal(samples_of(resumed).samples[name], tensor)
    with pytest.raises(rc.RebasinError, match="belongs to another training problem"):
        method(chains=2, warmup=24, draws=9, step_size=0.2).fit(model, data, checkpoint=path)


@BOTH
def test_a_step_size_that_is_too_large_is_reported(method: Method) -> None:
    model, data, _, _ = linear_regression()
    with pytest.warns(SamplerWarning) as caught:
        fit = method(warmup=0, draws=30, step_size=100.0, adapt=False).fit(model, data, likelihood=NOISE)
    assert [str(warning.message)[:40] for warning in caught] == [
        "120 of 120 transitions diverged (30, 30,",
        "no proposal of chains 0, 1, 2, 3 was acc",
    ]
    assert caught[0].filename == __file__
    assert statistics_of(fit).accepted == (0, 0, 0, 0)
    assert len(set(map(tuple, samples_of(fit).samples["weight"][:30].flatten(1).tolist()))) == 1


def trace(energy: torch.Tensor) -> dict[str, torch.Tensor]:
    names = ("acceptance", "divergent", "accepted", "saturated", "steps")
    return {"energy": energy, **{name: torch.ones_like(energy) * (name != "divergent") for name in names}}


def test_a_low_energy_fraction_is_reported() -> None:
    noise = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = noise.clone()
    slow[1] = noise[1].cumsum(0)
    found = SamplerStatistics.of(trace(slow), torch.ones(2), 0)
    assert found.energy_bfmi[0] == pytest.approx(2, rel=0.2)  # independent energies
    with pytest.warns(SamplerWarning, match=r"missing information is 0.0\d in 1 of 2 chains, below 0.3"):
        found.warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SamplerStatistics.of(trace(noise), torch.ones(2), 0).warn()
    assert math.isnan(SamplerStatistics.of(trace(noise[:, :2]), torch.ones(2), 0).energy_bfmi[0])


class Random(nn.Linear):
    """Layer whose outputs are random in evaluation mode."""

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(input), 0.5, training=True)


def nan_data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = classes()
    data[1][0][0, 0] = math.nan
    return data


@pytest.mark.parametrize("call", ["fit", "check"])
@pytest.mark.parametrize(
    ("make", "model", "data", "error", "message"),
    [
        (lambda: HMC(draws=10**9), network, classes, InvalidInputError, r"4 chains with \d+ draws of 38 parameters"),
        (HMC, lambda: Random(3, 3), classes, InvalidInputError, "a function of its parameters"),
        (NUTS, network, nan_data, DivergenceError, "finite log posterior at the initialization, got nan in chain 0"),
        (NUTS, lambda: nn.Linear(3, 2), classes, InvalidInputError, "class indices from 0 to 1"),
        (NUTS, nn.Tanh, classes, InvalidInputError, "at least one parameter"),
        (lambda: HMC(prior_scale={"9.*": 1.0}), network, classes, InvalidInputError, "matches `0.weight`"),
    ],
)
def test_problems_that_cannot_be_sampled_raise(  # ruff: ignore[too-many-positional-arguments] - a table
    make: Callable[[], HMC],
    model: Callable[[], nn.Module],
    data: Callable[[], Any],
    error: type[Exception],
    message: str,
    call: str,
) -> None:
    with pytest.raises(error, match=message):
        getattr(make(), call)(model(), data())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_scale": math.inf}, "expected a finite prior scale, got inf; under a flat prior"),
        ({"prior_scale": {"0.*": math.inf, "*": 1.0}}, "expected a finite prior scale"),
        ({"warmup": 0}, "expected a `step_size` without adaptation, got None with adapt=True and warmup=0"),
        ({"adapt": False}, "expected a `step_size` without adaptation"),
        ({"chains": 0}, "chains: expected a value greater than 0"),
        ({"target_acceptance": 1.0}, "target_acceptance: expected a value less than 1"),
        ({"temperature": 0.0}, "temperature: expected a value greater than 0"),
    ],
)
@BOTH
def test_invalid_options_raise(method: Method, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**options)
