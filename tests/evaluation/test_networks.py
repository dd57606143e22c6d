"""Evaluation methods, compared with the loop and with closed forms, and their use of memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.evaluation import (
    EvaluationOptions,
    FunctionalModel,
    HeldTask,
    LossEstimate,
    Predictions,
    Sampling,
    predict,
)
from rebasin_core.evaluation.choice import networks_of
from rebasin_core.evaluation.local import LocalNetworks
from rebasin_core.evaluation.networks import LoopedNetworks, SampledNetworks, VectorizedNetworks
from tests.evaluation.implementations import IMPLEMENTATIONS, OTHER_IMPLEMENTATIONS, layers

if TYPE_CHECKING:
    from rebasin_core.evaluation import PrecisionName

PRECISIONS: tuple[PrecisionName, ...] = ("full", "bfloat16")
LIKELIHOOD = rc.evaluation.CategoricalLikelihood()


def data(rows: int = 60, inputs: int = 5, batch: int = 25) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(rows, inputs, generator=g).double(), torch.randint(3, (rows,), generator=g)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def gaussian_around(model: nn.Module, stddev: float = 0.3) -> rc.posteriors.DiagonalGaussianPosterior:
    mean = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    return rc.posteriors.DiagonalGaussianPosterior(
        mean, {name: torch.full_like(tensor, stddev) for name, tensor in mean.items()}, buffers=buffers
    )


def mlp() -> nn.Module:
    return rc.architectures.MLPArchitecture(hidden=[7, 6]).build((5,), 3).double()


class Skip(nn.Module):
    """A skip connection bypasses the first layer, so that this layer cannot expand the batch to several networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(inputs + self.first(inputs).tanh())
        return output


def run(posterior: rc.Posterior, model: nn.Module, num_samples: int = 64, seed: int = 0, **options: Any) -> Predictions:
    functional = FunctionalModel(model, dtype=torch.float64)
    chosen = EvaluationOptions(**options)
    return predict(posterior, HeldTask(functional, data(), LIKELIHOOD), Sampling(num_samples, seed, chosen))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_vectorized_equals_the_loop(chunk: int) -> None:
    model = mlp()
    one, other = (
        run(gaussian_around(model), model, method=method, chunk_size=chunk) for method in ("loop", "vectorized")
    )
    torch.testing.assert_close(one.log_prob, other.log_prob)
    torch.testing.assert_close(one.prediction, other.prediction)
    torch.testing.assert_close(one.entropy, other.entropy)


@pytest.mark.statistics
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("model", [mlp(), Skip().double()])
def test_local_has_the_same_predictive(model: nn.Module, *, antithetic: bool) -> None:
    posterior = gaussian_around(model)
    exact = run(posterior, model, 20_000, method="vectorized")
    local = run(posterior, model, 20_000, seed=1, method="local", chunk_size=1000, antithetic=antithetic)
    # The predictive of each example, not only their mean: at most 4.5 standard errors for the largest of 60.
    a, b = exact.log_prob.exp(), local.log_prob.exp()
    error = torch.sqrt((a.var(0) + b.var(0)) / 20_000)
    assert ((a.mean(0) - b.mean(0)) / error).abs().max() < 4.5
    assert abs(LossEstimate.of(local).gibbs - LossEstimate.of(exact).gibbs) < 0.02


def test_local_has_a_smaller_error() -> None:
    model = mlp()
    errors = {
        method: torch.tensor([
            LossEstimate.of(run(gaussian_around(model), model, 16, s, method=method)).loss for s in range(30)
        ])
        for method in ("loop", "local")
    }
    assert errors["local"].std() < 0.4 * errors["loop"].std()


@pytest.mark.statistics
@pytest.mark.parametrize("options", [{"method": "local"}, {"method": "loop", "antithetic": True}])
def test_stated_errors_are_the_standard_deviation_over_seeds(options: dict[str, Any]) -> None:
    model = mlp()
    found = [LossEstimate.of(run(gaussian_around(model), model, 32, seed, **options)) for seed in range(80)]
    stddev = torch.tensor([estimate.loss for estimate in found]).std().item()
    # Relative error of a standard deviation from 80 values: 8 %.
    assert sum(estimate.stderr for estimate in found) / 80 == pytest.approx(stddev, rel=0.35)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("implementation", OTHER_IMPLEMENTATIONS)
def test_local_does_not_depend_on_the_implementation(implementation: str, *, antithetic: bool) -> None:
    models = [IMPLEMENTATIONS[name](layers()) for name in ("linear", implementation)]
    expected, found = (
        run(gaussian_around(model), model, method="local", antithetic=antithetic, chunk_size=10) for model in models
    )
    torch.testing.assert_close(found.log_prob, expected.log_prob)
    batches = [(x, y) for x, y in data()]
    functional = FunctionalModel(models[1], dtype=torch.float64)
    chosen = networks_of(gaussian_around(models[1]), functional, batches, Sampling(4, 0, EvaluationOptions()))
    assert isinstance(chosen, LocalNetworks)


@pytest.mark.statistics
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_local_noise_of_one_layer_has_the_closed_form(implementation: str) -> None:
    model = IMPLEMENTATIONS[implementation](layers())
    mean = {name: tensor.detach() for name, tensor in model.named_parameters()}
    stddev = {name: 0.1 + mean[name].abs() for name in list(mean)[4:]}
    fixed = {name: tensor for name, tensor in mean.items() if name not in stddev}
    posterior = rc.posteriors.DiagonalGaussianPosterior({name: mean[name] for name in stddev}, stddev, fixed=fixed)
    options = EvaluationOptions(method="local", antithetic=False)
    functional = FunctionalModel(model, dtype=torch.float64)
    networks = networks_of(posterior, functional, data(), Sampling(20_000, 0, options))
    outputs = torch.cat([part.values for part in networks.outputs(data()[:1])])
    hidden = data()[0][0]
    for weight, bias in layers()[:2]:
        hidden = torch.tanh(hidden @ weight.T + bias)
    weight, bias = layers()[2]
    exact = torch.sqrt(hidden.square() @ (0.1 + weight.abs()).square().T + (0.1 + bias.abs()).square())
    # Relative error of a standard deviation from 20,000 values: 0.5 %.
    torch.testing.assert_close(outputs.std(0), exact, rtol=0.025, atol=0)
    assert ((outputs.mean(0) - hidden @ weight.T - bias) / exact * 20_000**0.5).abs().max() < 4.5


def test_local_is_not_exact_for_several_rows_per_example() -> None:
    class Tokens(nn.Module):
        """A dense layer that is applied to several rows of each example, in the batch dimension."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        @override
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.layer(inputs.repeat_interleave(2, 0))
            output: torch.Tensor = rows.unflatten(0, (-1, 2)).tanh().sum(1)
            return output

    model = Tokens().double()
    functional = FunctionalModel(model, dtype=torch.float64)
    options = EvaluationOptions()
    chosen = networks_of(gaussian_around(model), functional, data(), Sampling(4, 0, options))
    assert not isinstance(chosen, LocalNetworks)


def test_local_raises_for_parameters_outside_of_layers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(5, 3), nn.Parameter(torch.ones(3))

        @override
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.layer(inputs) * self.scale
            return output

    model = Scaled().double()
    with pytest.raises(InvalidInputError, match="`scale`"):
        run(gaussian_around(model), model, 4, method="local")


def test_auto_selects_an_applicable_method() -> None:
    small = mlp()
    functional = FunctionalModel(small, dtype=torch.float64)
    options = EvaluationOptions()

    def chosen(posterior: rc.Posterior, model: FunctionalModel = functional, **extra: Any) -> type:
        batches = data() if model is functional else [(torch.zeros(4, 1, 8, 8).double(), torch.zeros(4).long())]
        return type(networks_of(posterior, model, batches, Sampling(4, 0, options, **extra)))

    assert chosen(gaussian_around(small)) is LocalNetworks
    assert chosen(gaussian_around(small), adjust=lambda tensors, _: tensors) is VectorizedNetworks
    assert chosen(rc.posteriors.PointPosterior.from_module(small)) is VectorizedNetworks
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).double()
    # All positions of one example share the weights of a convolution: `local` would not be exact.
    assert (
        chosen(gaussian_around(convolutional), FunctionalModel(convolutional, dtype=torch.float64))
        is VectorizedNetworks
    )
    # `vmap` does not support data-dependent control flow.
    assert chosen(
        rc.posteriors.PointPosterior.from_module(Branching()), FunctionalModel(Branching(), dtype=torch.float64)
    ) is (LoopedNetworks)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(inputs.flatten(1))
        return output if output.sum() > 0 else -output


def test_bfloat16_changes_the_loss_little() -> None:
    model = mlp().float()
    batches = [(x.float(), y) for x, y in data()]
    posterior = gaussian_around(model).to(dtype=torch.float32)
    full, half = (
        rc.score(
            posterior, rc.Task(model, batches), evaluation=EvaluationOptions(method="loop", precision=precision)
        ).nll
        for precision in PRECISIONS
    )
    assert full != half
    assert half == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize("method", ["local", "vectorized"])
def test_results_do_not_depend_on_the_free_memory(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    expected = run(gaussian_around(model), model, 16, method=method)
    monkeypatch.setattr("os.sysconf", lambda _: 1)  # one page of one byte
    found = run(gaussian_around(model), model, 16, method=method)
    assert torch.equal(found.log_prob, expected.log_prob)


def test_out_of_memory_halves_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    expected = run(gaussian_around(model), model, 16, method="vectorized")
    tried: list[int] = []
    original: Any = VectorizedNetworks._run

    def scarce(self: object, networks: list[object], *rest: object) -> object:
        tried.append(len(networks))
        if len(networks) > 3:
            message = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            raise RuntimeError(message)
        return original(self, networks, *rest)

    monkeypatch.setattr(VectorizedNetworks, "_run", scarce)
    found = run(gaussian_around(model), model, 16, method="vectorized", chunk_size=16)
    assert tried[:3] == [16, 8, 4]
    torch.testing.assert_close(found.log_prob, expected.log_prob)


def test_one_network_that_does_not_fit_into_memory_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_: object) -> object:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(FunctionalModel, "__call__", scarce)
    with pytest.raises(InvalidInputError, match="one network on one batch does not fit into memory; use smaller"):
        run(rc.posteriors.PointPosterior.from_module(mlp()), mlp(), 2, method="loop")


def test_a_pair_that_does_not_fit_into_memory_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    original: Any = FunctionalModel.__call__

    def scarce(self: FunctionalModel, tensors: dict[str, torch.Tensor], inputs: torch.Tensor) -> object:
        if len(inputs) > 2:
            raise torch.cuda.OutOfMemoryError
        return original(self, tensors, inputs)

    monkeypatch.setattr(FunctionalModel, "__call__", scarce)
    with pytest.raises(InvalidInputError, match="does not fit into memory"):
        run(gaussian_around(model), model, 8, method="local")


def test_invalid_options_raise() -> None:
    with pytest.raises(ConfigError, match="method: expected 'auto', 'loop', 'vectorized' or 'local', got 'fast'"):
        EvaluationOptions(method="fast")
    with pytest.raises(ConfigError, match="chunk_size: expected a value greater than 0, got 0"):
        EvaluationOptions(chunk_size=0)
    model = mlp()
    with pytest.raises(InvalidInputError, match="antithetic pairs need a Gaussian"):
        run(rc.posteriors.PointPosterior.from_module(model), model, 4, method="loop", antithetic=True)
    with pytest.raises(InvalidInputError, match="even number"):
        run(gaussian_around(model), model, 5, method="local", antithetic=True)
    with pytest.raises(InvalidInputError, match="got a 'point' posterior"):
        run(rc.posteriors.PointPosterior.from_module(model), model, 4, method="local")


def test_classification_scores_against_scikit_learn() -> None:
    model = mlp()
    found = run(gaussian_around(model), model, 32)
    y, p = torch.cat([t for _, t in data()]), found.prediction
    scores = rc.evaluation.PredictiveScores.of(found, LIKELIHOOD)
    assert scores.nll == pytest.approx(log_loss(y.numpy(), p.numpy()), rel=1e-6)
    assert scores.values["accuracy"] == pytest.approx(accuracy_score(y.numpy(), p.argmax(1).numpy()))
    assert scores.gibbs > scores.nll
    assert 0 < scores.values["mutual_information"] < scores.values["entropy"] < math.log(3)
    assert set(scores.as_json()) >= {"nll", "brier", "ece"}


def test_regression_scores() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.4], [-0.3]]).double()
    posterior = rc.posteriors.DiagonalGaussianPosterior(
        {"weight": torch.ones(1, 1).double()}, {"weight": 0.5 * torch.ones(1, 1).double()}
    )
    scores = rc.score(
        posterior, rc.Task(model, [(x, y)], likelihood=rc.evaluation.GaussianLikelihood(scale=0.3)), num_samples=2000
    )
    # The predictive is Gaussian: CRPS in closed form (the mixture formula for one component).
    scale = torch.sqrt((0.5 * x) ** 2 + 0.3**2)
    exact = rc.metrics.gaussian_mixture_crps(x.unsqueeze(0), scale.unsqueeze(0), y).mean().item()
    assert scores.values["crps"] == pytest.approx(exact, rel=0.03)
    assert scores.values["rmse"] == pytest.approx(math.sqrt((0.6**2 + 2.3**2) / 2), rel=0.03)


@pytest.mark.parametrize("antithetic", [False, True])
def test_small_networks_are_sampled_in_blocks_without_gaps(*, antithetic: bool) -> None:
    posterior, count = gaussian_around(mlp()), 130  # more than two blocks
    networks = list(SampledNetworks(posterior, count, 0, antithetic=antithetic))
    name, mean = next(iter(posterior.mean.items()))
    weights = torch.stack([tensors[name] for tensors in networks])
    assert len(networks) == len(weights.flatten(1).unique(dim=0)) == count
    pair_means = weights.unflatten(0, (-1, 2)).mean(1)
    assert torch.allclose(pair_means, mean.expand_as(pair_means), atol=1e-6) == antithetic
