"""Every example has equal weight, for any split of the data into batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Literal, final

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.normalization import refreshed_buffers
from rebasin_core.inference import FitProblem, FitResult, MAPInference, MeanFieldVI, OptimizerSpec, ScheduleSpec

Batches = list[tuple[torch.Tensor, torch.Tensor]]
COUNT = 33
LIKELIHOOD = rc.evaluation.GaussianLikelihood(scale=0.5)
SPLITS = {"one": [33], "equal": [11, 11, 11], "last": [32, 1], "first": [1, 2, 30]}


def outlier_regression() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs, targets (the last is an outlier), and the exact posterior mean and standard deviation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, 2, generator=generator).double()
    weights = torch.tensor([[1.0], [-0.5]]).double()
    y = x @ weights + 0.5 * torch.randn(COUNT, 1, generator=generator).double()
    x[-1] = 1.0
    y[-1] = x[-1] @ weights + 1.5
    covariance = torch.linalg.inv(x.T @ x / 0.25 + torch.eye(2).double())
    return x, y, (covariance @ x.T @ y / 0.25).squeeze(1), covariance.diag().sqrt()


def batches(split: str) -> Batches:
    x, y, *_ = outlier_regression()
    return list(zip(x.split(SPLITS[split]), y.split(SPLITS[split]), strict=True))


def network() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return model


def decaying(epochs: int, name: str = "SGD", lr: float = 0.2) -> dict[str, Any]:
    """Options of a learning rate that decays until the order of the steps has little effect."""
    schedule = ScheduleSpec(name="ExponentialLR", gamma=1e-4 ** (1 / epochs))
    return {"epochs": epochs, "optimizer": OptimizerSpec(name=name, lr=lr), "schedule": schedule}


def error(posterior: rc.Posterior) -> float:
    """Return the largest error of the mean, in posterior standard deviations."""
    _, _, mean, stddev = outlier_regression()
    return ((posterior.mean["weight"].flatten() - mean).abs() / stddev).max().item()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: MAPInference(prior_scale=1, **options),
        lambda **options: rc.inference.DeepEnsemble(members=2, prior_scale=1, **options),
        lambda **options: rc.inference.MCDropout(rate=1e-12, layers=["weight"], prior_scale=1, **options),
        lambda **options: MeanFieldVI(prior_scale=1, initial_stddev=1e-9, **options),
    ],
    ids=["map", "ensemble", "dropout", "vi"],
)
def test_the_steps_of_a_pass_sum_to_the_gradient_on_all_data(make: Callable[..., rc.Inference], split: str) -> None:
    rate = 1e-6
    method = make(epochs=1, optimizer=OptimizerSpec(name="SGD", lr=rate))
    model = network()
    posterior = method.fit(model, batches(split), likelihood=LIKELIHOOD).posterior
    fitted = posterior.samples if isinstance(posterior, rc.posteriors.SamplesPosterior) else posterior.mean
    mean_step = fitted["weight"].reshape(-1, 2)[0] / rate / len(SPLITS[split])
    x, y, *_ = outlier_regression()
    weight = model.weight.detach().double().clone().requires_grad_()
    loss = -LIKELIHOOD.log_prob(x @ weight.T, y).mean() + weight.square().sum() / (2 * COUNT)
    (gradient,) = torch.autograd.grad(loss, [weight])
    torch.testing.assert_close(mean_step, -gradient[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("split", SPLITS)
def test_gradient_descent_finds_the_exact_maximum(split: str) -> None:
    found = MAPInference(prior_scale=1, **decaying(200)).fit(network(), batches(split), likelihood=LIKELIHOOD)
    assert error(found.posterior) < 0.02
    x, y, mean, _ = outlier_regression()
    loss = -LIKELIHOOD.log_prob(x @ mean[:, None], y).mean() + mean.square().sum() / (2 * COUNT)
    # The history is the mean over examples, not over batches.
    assert found.history[-1] == pytest.approx(loss.item(), rel=1e-4)


class Partitions:
    """Random splits of the examples, with another number of batches in each pass."""

    def __init__(self) -> None:
        self._random = random.Random(0)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._random.sample(range(COUNT), COUNT)
        start = 0
        while start < COUNT:
            size = self._random.choice([1, 5, 20])
            yield order[start : start + size]
            start += size


class Stream(IterableDataset[Any]):
    """Stream of single examples."""

    @override
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        x, y, *_ = outlier_regression()
        return zip(x, y, strict=True)


@pytest.mark.parametrize("kind", ["shuffled", "random batches", "stream", "arrays"])
def test_any_loader_gives_the_maximum(kind: str) -> None:
    x, y, *_ = outlier_regression()
    whole = TensorDataset(x, y)
    loaders: dict[str, Any] = {
        "shuffled": DataLoader(whole, batch_size=32, shuffle=True),
        "random batches": DataLoader(whole, batch_sampler=Partitions()),
        "stream": DataLoader(Stream(), batch_size=32),
        "arrays": rc.data.Examples(x, y).batches(32, shuffle_seed=1),
    }
    found = MAPInference(prior_scale=1, **decaying(200)).fit(network(), loaders[kind], likelihood=LIKELIHOOD)
    assert error(found.posterior) < 0.02


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        (MAPInference(prior_scale=1, **decaying(300, "Adam", 0.1)), 0.05),
        (rc.inference.SnapshotEnsemble(members=2, epochs=200, optimizer=OptimizerSpec(name="SGD", lr=0.1)), 0.05),
        (rc.inference.SWAG(epochs=200, optimizer=OptimizerSpec(name="SGD", lr=0.05)), 0.05),
        (MeanFieldVI(prior_scale=1, **decaying(250, "Adam", 0.1)), 0.3),
        (MeanFieldVI(prior_scale=1, estimator="flipout", **decaying(250, "Adam", 0.1)), 0.3),
        (MeanFieldVI(prior_scale=1, estimator="weights", sticking_the_landing=True, **decaying(250, "Adam", 0.1)), 0.3),
        (rc.inference.SGLD(epochs=400, burn_in=100, learning_rate=0.01, chains=8), 0.3),
        (rc.inference.SGHMC(epochs=400, burn_in=100, learning_rate=0.002, chains=8), 0.3),
    ],
    ids=["adam", "snapshots", "swag", "local", "flipout", "landing", "sgld", "sghmc"],
)
def test_a_small_batch_is_weighted_by_its_examples_in_every_method(method: rc.Inference, tolerance: float) -> None:
    posterior = method.fit(network(), batches("last"), likelihood=LIKELIHOOD).posterior
    # With equal weight per batch, the errors were between 3 and 6 posterior standard deviations.
    assert error(posterior) < tolerance
    if isinstance(method, rc.inference.SGLD | rc.inference.SGHMC):
        _, _, _, stddev = outlier_regression()
        torch.testing.assert_close(posterior.stddev["weight"][0], stddev, rtol=0.2, atol=0)


def test_normalization_statistics_are_those_of_all_examples() -> None:
    x, y, *_ = outlier_regression()
    model = nn.BatchNorm1d(2).double()
    split = [(x[:30], y[:30]), (x[30:], y[30:])]
    buffers = refreshed_buffers(model, dict(model.named_parameters()), split)
    torch.testing.assert_close(buffers["running_mean"], x.mean(0))
    expected = (30 * x[:30].var(0) + 3 * x[30:].var(0)) / 33
    torch.testing.assert_close(buffers["running_var"], expected)


@final
class Recorder(rc.Inference):
    """Method that records the problem."""

    name: Literal["recorder"] = "recorder"

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        PROBLEMS.append(problem)
        return FitResult(rc.posteriors.PointPosterior(dict(problem.model.named_parameters())), (), 0)


PROBLEMS: list[FitProblem] = []


def test_the_whole_dataset_of_a_loader_that_samples_it_is_counted() -> None:
    x, y, *_ = outlier_regression()
    whole = TensorDataset(x, y)
    resampled = RandomSampler(whole, replacement=True, num_samples=100)
    cases: list[tuple[Any, tuple[int, int, float]]] = [
        (DataLoader(whole, batch_size=8, shuffle=True), (33, 5, 6.6)),
        (DataLoader(whole, batch_size=8, shuffle=True, drop_last=True), (33, 4, 8)),
        # The last example is never used.
        (DataLoader(whole, batch_size=8, drop_last=True), (32, 4, 8)),
        (DataLoader(whole, batch_size=30, sampler=resampled), (33, 4, 25)),
        ([(x[:0], y[:0]), (x, y)], (33, 1, 33)),
    ]
    for data, expected in cases:
        Recorder().fit(network(), data)
        problem = PROBLEMS[-1]
        assert (problem.num_examples, problem.num_batches, problem.batch_size) == expected
    Recorder().fit(network(), batches("last"), num_examples=500)
    assert PROBLEMS[-1].num_examples == 500
    assert PROBLEMS[-1].batch_weight(y[:1]) == pytest.approx(2 / 33)


def test_reading_the_data_does_not_change_the_global_generator() -> None:
    x, y, *_ = outlier_regression()
    model = network()
    state = torch.get_rng_state()
    MAPInference(epochs=2).fit(model, DataLoader(TensorDataset(x, y), shuffle=True), likelihood="gaussian")
    assert torch.equal(torch.get_rng_state(), state)


def test_data_that_are_not_batches_raise() -> None:
    x, y, *_ = outlier_regression()
    bad: list[tuple[Any, str]] = [
        (TensorDataset(x, y), "got the dataset `TensorDataset` of single examples; give a `DataLoader`"),
        (x, "expected batches .* got `Tensor`"),
        ({"x": x}, "expected batches .* got `dict`"),
        (3, "expected batches .* got `int`"),
        ([{"x": x, "z": y}], r"got dict with \['x', 'z'\]"),
        ([(x.tolist(), y)], r"got tuple of \['list', 'Tensor'\]"),
        ([(x, y[:5])], r"one row per example .* got inputs of shape \(33, 2\).* shape \(5, 1\)"),
        ([(x[0], torch.tensor(1))], "one row per example"),
        ([x, y], "got Tensor; give"),
        ([], "at least one example"),
        ([(x[:0], y[:0])], "at least one example"),
        (iter([(x, y)]), "read only once"),
    ]
    for data, message in bad:
        with pytest.raises(InvalidInputError, match=message):
            MAPInference(epochs=1).fit(network(), data, likelihood="gaussian")
    with pytest.raises(InvalidInputError, match="`num_examples` of at least 1, got 0"):
        MAPInference(epochs=1).fit(network(), [(x, y)], likelihood="gaussian", num_examples=0)


def test_data_that_are_exhausted_raise() -> None:
    class Once:
        remaining = 2

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            self.remaining -= 1
            return iter(batches("one") if self.remaining >= 0 else [])

    with pytest.raises(InvalidInputError, match="no examples in epoch 2"):
        MAPInference(epochs=5).fit(network(), Once(), likelihood="gaussian")
