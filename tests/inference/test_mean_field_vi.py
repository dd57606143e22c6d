from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from typing_extensions import override

from rebasin_core.errors import ConfigError, FileFormatError, InvalidInputError
from rebasin_core.evaluation import FunctionalModel, GaussianLikelihood
from rebasin_core.inference import MeanFieldVI, OptimizerSpec, ScheduleSpec
from rebasin_core.inference.weight_noise import EstimatorName, WeightNoise
from rebasin_core.posteriors import DiagonalGaussianPosterior
from tests.evaluation.implementations import IMPLEMENTATIONS, OTHER_IMPLEMENTATIONS, as_outputs_inputs, layers


def linear_regression() -> tuple[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Return a model, an orthogonal design, and the mean and standard deviation of the exact (diagonal) posterior."""
    noise = 0.5
    prior = 0.8
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double().repeat(5, 1)
    y = x @ torch.tensor([[0.7], [-0.4]]).double() + 0.1 * torch.arange(20).double()[:, None].sin()
    precision = (x.square().sum(0) / noise**2) + 1 / prior**2
    mean = (x.T @ y).squeeze(1) / noise**2 / precision
    return nn.Linear(2, 1, bias=False).double(), [(x, y)], mean, precision.rsqrt()


ESTIMATORS: list[tuple[EstimatorName, bool]] = [
    ("local", False),
    ("flipout", False),
    ("weights", False),
    ("weights", True),
]


@pytest.mark.parametrize(("estimator", "landing"), ESTIMATORS)
def test_exact_posterior_of_linear_regression(estimator: EstimatorName, *, landing: bool) -> None:
    model, data, mean, stddev = linear_regression()
    method = MeanFieldVI(
        epochs=1500,
        prior_scale=0.8,
        optimizer=OptimizerSpec(name="Adam", lr=0.02),
        schedule=ScheduleSpec(name="CosineAnnealingLR", T_max=1500),
        estimator=estimator,
        sticking_the_landing=landing,
    )
    posterior = method.fit(model, data, likelihood=GaussianLikelihood(scale=0.5)).posterior
    torch.testing.assert_close(posterior.mean["weight"].flatten(), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(posterior.stddev["weight"].flatten(), stddev, atol=0.02, rtol=0)


class Mixed(nn.Module):
    """Network with a layer called once, one called twice, a convolution, and a parameter used directly."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.convolution = nn.Conv1d(1, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.twice(torch.tanh(self.twice(self.once(x)))) * self.scale
        result: torch.Tensor = self.convolution(hidden[:, None]).flatten(1)
        return result


def test_local_reparameterization_applies_to_layers_called_once() -> None:
    model = FunctionalModel(Mixed())
    tensors = {name: p.detach() for name, p in model.module.named_parameters()}
    network = WeightNoise(model, torch.zeros(2, 4), tensors, torch.Generator().manual_seed(0))
    assert network.local_names == {"once.weight", "once.bias", "convolution.weight", "convolution.bias"}


def test_local_noise_has_the_marginals_of_weight_noise(generator: torch.Generator) -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(3, 2)), dtype=torch.float64)
    mean = {name: p.detach() for name, p in model.module.named_parameters()}
    stddev = {name: torch.rand(p.shape, generator=generator, dtype=torch.float64) for name, p in mean.items()}
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    samples = DiagonalGaussianPosterior(mean, stddev).sample((20_000,), generator=generator)
    direct = torch.einsum("soi,i->so", samples["0.weight"], x[0]) + samples["0.bias"]
    error = 5 * direct.std(0) / math.sqrt(20_000)
    local, _ = WeightNoise(model, x, mean, generator)(mean, stddev, {}, x.expand(20_000, 3))
    assert bool(((direct.mean(0) - local.mean(0)).abs() < 2 * error).all())
    assert bool(((direct.std(0) - local.std(0)).abs() < 2 * error).all())


def test_flipout_has_the_marginals_of_weight_noise(generator: torch.Generator) -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(3, 2)), dtype=torch.float64)
    mean = {name: p.detach() for name, p in model.module.named_parameters()}
    stddev = {name: torch.rand(p.shape, generator=generator, dtype=torch.float64) for name, p in mean.items()}
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    center = model(mean, x)[0]
    network = WeightNoise(model, x, mean, generator, estimator="flipout")
    outputs = torch.cat([network(mean, stddev, {}, x.expand(4, 3))[0] for _ in range(4000)])
    exact = (x.square() @ stddev["0.weight"].square().T + stddev["0.bias"].square()).sqrt()[0]
    # The four examples of one batch share the absolute values of the perturbation: they count as one sample.
    assert bool(((outputs.std(0) - exact).abs() < 5 * exact / math.sqrt(2 * 4000)).all())
    assert bool(((outputs.mean(0) - center).abs() < 5 * exact / math.sqrt(4000)).all())


@pytest.mark.parametrize("estimator", ["local", "flipout"])
@pytest.mark.parametrize("implementation", OTHER_IMPLEMENTATIONS)
def test_noise_does_not_depend_on_how_a_network_is_written(implementation: str, estimator: EstimatorName) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found: list[torch.Tensor] = []
    for name in ("linear", implementation):
        model = FunctionalModel(IMPLEMENTATIONS[name](layers()), dtype=torch.float64)
        mean = {n: p.detach().clone().requires_grad_() for n, p in model.module.named_parameters()}
        stddev = {n: 0.1 + p.detach().abs() for n, p in mean.items()}
        # Flipout has the same signs, but its noise depends on the layout in which weights are stored.
        stddev = stddev if estimator == "local" else dict.fromkeys(stddev, torch.zeros(()).double())
        stddev = {n: s.expand(mean[n].shape) for n, s in stddev.items()}
        generator = torch.Generator().manual_seed(0)
        network = WeightNoise(model, x[:2], mean, generator, estimator=estimator)
        assert network.local_names == set(mean)
        outputs, _ = network(mean, stddev, {}, x)
        gradients = torch.autograd.grad(outputs.sum(), list(mean.values()))
        found.append(
            torch.cat([
                outputs.flatten(),
                *(g.flatten() for g in as_outputs_inputs(model.module, dict(zip(mean, gradients, strict=True)))),
            ])
        )
    torch.testing.assert_close(found[1], found[0])


def test_flipout_has_the_joint_distribution_of_every_example(generator: torch.Generator) -> None:
    """All positions of one example share the same weight sample: their outputs are correlated."""
    model = FunctionalModel(nn.Linear(3, 2, bias=False), dtype=torch.float64)
    mean = {"weight": torch.zeros(2, 3, dtype=torch.float64)}
    stddev = {"weight": torch.rand(2, 3, generator=generator, dtype=torch.float64)}
    x = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    network = WeightNoise(model, x.expand(2, 4, 3), mean, generator, estimator="flipout")
    outputs = torch.cat([network(mean, stddev, {}, x.expand(2, 4, 3))[0] for _ in range(10_000)])
    exact = torch.einsum("pi,qi,oi->opq", x[0], x[0], stddev["weight"].square())
    found = torch.einsum("npo,nqo->opq", outputs, outputs) / len(outputs)
    # Examples of one batch share the absolute values of the perturbation.
    scale = torch.sqrt(exact.diagonal(0, 1, 2)[:, :, None] * exact.diagonal(0, 1, 2)[:, None])
    assert bool(((found - exact).abs() < 5 * scale * math.sqrt(2 / 10_000)).all())


def test_only_the_selected_layers_are_random(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    data = [(torch.randn(16, 2, generator=generator), torch.arange(16) % 2)]
    posterior = MeanFieldVI(epochs=3, stochastic=("2.*",)).fit(model, data).posterior
    assert isinstance(posterior, DiagonalGaussianPosterior)
    assert set(posterior.random_names) == {"2.weight", "2.bias"}
    assert not posterior.stddev["0.weight"].any()
    assert not torch.equal(posterior.mean["0.weight"], model.state_dict()["0.weight"]), "the others are MAP estimates"
    with pytest.raises(InvalidInputError, match=r"pattern 'lost\.\*' of `stochastic` matches none"):
        MeanFieldVI(epochs=1, stochastic=("lost.*",)).fit(model, data)


def test_moped_initializes_at_the_model_and_centers_the_prior_there(generator: torch.Generator) -> None:
    model = nn.Linear(2, 2)
    data = [(torch.randn(4, 2, generator=generator), torch.arange(4) % 2)]
    optimizer = OptimizerSpec(name="SGD", lr=1e-12)
    posterior = MeanFieldVI(epochs=1, moped=0.1, prior_scale=1.0, optimizer=optimizer).fit(model, data).posterior
    assert isinstance(posterior, DiagonalGaussianPosterior)
    torch.testing.assert_close(posterior.stddev["weight"], 0.1 * model.weight.detach().abs(), rtol=1e-3, atol=1e-6)
    assert posterior.prior is not None
    assert torch.equal(posterior.prior.mean["weight"], model.weight.detach())


def test_a_prior_scale_for_every_layer(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    data = [(torch.randn(4, 2, generator=generator), torch.arange(4) % 2)]
    scales = {"0.*": 0.5, "*": 2.0}
    posterior = MeanFieldVI(epochs=1, prior_scale=scales).fit(model, data).posterior
    assert isinstance(posterior, DiagonalGaussianPosterior)
    assert posterior.prior is not None
    assert [posterior.prior.stddev[n].item() for n in ("0.weight", "1.weight")] == [0.5, 2.0]
    with pytest.raises(InvalidInputError, match=r"expected a pattern of `prior_scale` that matches `1\.weight`"):
        MeanFieldVI(epochs=1, prior_scale={"0.*": 0.5}).fit(model, data)


def test_the_kl_weight_increases_during_the_warmup(generator: torch.Generator) -> None:
    model = nn.Linear(2, 2)
    data = [(torch.randn(4, 2, generator=generator), torch.arange(4) % 2)]
    optimizer = OptimizerSpec(name="SGD", lr=1e-12)
    fit = MeanFieldVI(epochs=6, kl_warmup=4, kl_weight=100.0, optimizer=optimizer).fit(model, data)
    first = [b - a for a, b in zip(fit.history, fit.history[1:], strict=False)]
    assert all(step > 1 for step in first[:3])
    assert all(abs(step) < 1 for step in first[3:])


def test_the_permutation_invariant_elbo_requires_symmetries_and_weight_samples() -> None:
    model, data, _, _ = linear_regression()
    with pytest.raises(ConfigError, match="`num_permutations` requires estimator='weights', got 'local'"):
        MeanFieldVI(num_permutations=4)
    with pytest.raises(InvalidInputError, match="pass `spec` to `fit`"):
        MeanFieldVI(num_permutations=4, estimator="weights").fit(model, data, likelihood="gaussian")


def test_a_smaller_kl_weight_decreases_the_stddev() -> None:
    model, data, _, _ = linear_regression()
    stddevs = []
    for weight in (0.01, 1.0):
        method = MeanFieldVI(
            epochs=500, prior_scale=0.8, kl_weight=weight, optimizer=OptimizerSpec(name="Adam", lr=0.03)
        )
        fit = method.fit(model, data, likelihood=GaussianLikelihood(scale=0.5))
        stddevs.append(fit.posterior.stddev["weight"].mean().item())
    # A KL weight of 0.01 raises the likelihood to the power 100, which divides the standard deviation by about 10.
    assert stddevs[0] < 0.2 * stddevs[1]


def test_normalization_statistics_are_updated_in_the_posterior(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = [(5 + torch.randn(16, 2, generator=generator), torch.arange(16) % 2)]
    posterior = MeanFieldVI(epochs=3).fit(model, data).posterior
    assert posterior.buffers["1.num_batches_tracked"].item() == 3
    assert dict(model.named_buffers())["1.num_batches_tracked"].item() == 0
    assert not torch.equal(posterior.buffers["1.running_mean"], torch.zeros(3))


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam"])
@pytest.mark.parametrize("schedule", [None, "OneCycleLR"])
def test_a_resumed_run_equals_the_uninterrupted_run(
    optimizer: str, schedule: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("resume")
    model, data, _, _ = linear_regression()
    options = {"momentum": 0.9} if optimizer == "SGD" else {}

    class Stop(Exception):  # ruff: ignore[error-suffix-on-exception-name] - it is a signal
        pass

    def fit(epochs_allowed: int | None) -> DiagonalGaussianPosterior:
        method = MeanFieldVI(
            epochs=8,
            optimizer=OptimizerSpec(name=optimizer, lr=0.01, **options),
            schedule=None if schedule is None else ScheduleSpec(name=schedule, max_lr=0.1, total_steps=8),
        )

        class Data:
            passes = -1  # the first pass is the survey before training

            def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
                type(self).passes += 1
                if epochs_allowed is not None and type(self).passes > epochs_allowed:
                    raise Stop
                return iter(data)

        checkpoint = None if epochs_allowed is None else folder / "c.safetensors"
        result = method.fit(
            model,
            Data(),
            likelihood="gaussian",
            generator=torch.Generator().manual_seed(3),
            checkpoint=checkpoint,
        )
        resumed.append(result.resumed_at)
        assert isinstance(result.posterior, DiagonalGaussianPosterior)
        return result.posterior

    resumed: list[int] = []
    whole = fit(None)
    with pytest.raises(Stop):
        fit(5)
    second = fit(99)
    assert resumed[1] >= 1, "the run did not resume"
    assert torch.equal(second.mean["weight"], whole.mean["weight"])
    assert torch.equal(second.stddev["weight"], whole.stddev["weight"])


def test_the_checkpoint_of_another_problem_is_not_resumed(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("other") / "c.safetensors"
    model, data, _, _ = linear_regression()
    MeanFieldVI(epochs=1).fit(model, data, likelihood="gaussian", checkpoint=path)
    with pytest.raises(FileFormatError, match="another training problem"):
        MeanFieldVI(epochs=1, prior_scale=2.0).fit(model, data, likelihood="gaussian", checkpoint=path)


def test_unusable_data_and_models() -> None:
    with pytest.raises(InvalidInputError, match="read only once"):
        MeanFieldVI().fit(linear_regression()[0], iter([]))
    with pytest.raises(InvalidInputError, match="a model with at least one parameter, got none"):
        MeanFieldVI().fit(nn.Flatten(), [(torch.zeros(1, 2), torch.tensor([0]))])
