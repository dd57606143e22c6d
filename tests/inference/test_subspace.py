"""Subspace inference, compared with exact posteriors of linear regression and with principal components of NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import ConfigError, FileFormatError, InvalidInputError
from rebasin_core.inference import HMC, NUTS, SWAG, OptimizerSpec, SubspaceInference
from rebasin_core.inference.affine_subspace import AffineSubspace, SubspaceNetwork
from rebasin_core.posteriors import LowRankGaussianPosterior, SamplesPosterior

Batches = list[tuple[torch.Tensor, torch.Tensor]]
NOISE, FEATURES = 0.5, 6
LIKELIHOOD = rc.evaluation.GaussianLikelihood(scale=NOISE)
QUICK = SWAG(epochs=8, rank=4, optimizer=OptimizerSpec(name="SGD", lr=0.1))
SHORT = NUTS(chains=2, warmup=20, draws=5, max_depth=5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regression() -> tuple[nn.Linear, Batches]:
    x = torch.randn(40, FEATURES, generator=seeded(0)).double()
    y = x @ torch.linspace(-1, 1, FEATURES).double()[:, None] + NOISE * torch.randn(40, 1, generator=seeded(1)).double()
    model = nn.Linear(FEATURES, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return model, [(x[:15], y[:15]), (x[15:], y[15:])]


def classes() -> Batches:
    targets = torch.arange(48) % 3
    inputs = 2 * torch.eye(3)[targets] + torch.randn(48, 3, generator=seeded(1))
    return list(zip(inputs.double().split(16), targets.split(16), strict=True))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()


def samples_of(result: rc.inference.FitResult) -> SamplesPosterior:
    assert isinstance(result.posterior, SamplesPosterior)
    return result.posterior


def test_the_posterior_is_the_exact_one_of_regression_in_the_principal_subspace() -> None:
    model, data = regression()
    trajectory = SWAG(epochs=12, rank=4, start=4, optimizer=OptimizerSpec(name="SGD", lr=0.03))
    method = SubspaceInference(
        rank=2, trajectory=trajectory, sampler=NUTS(chains=16, warmup=120, draws=100, prior_scale=2.0, max_depth=4)
    )
    found = samples_of(method.fit(model, data, likelihood=LIKELIHOOD)).samples["weight"][:, 0].numpy()

    swag = trajectory.fit(model, data, likelihood=LIKELIHOOD).posterior
    assert isinstance(swag, LowRankGaussianPosterior)
    mean = swag.mean["weight"][0].numpy()
    # The factor of SWAG has the scale 1/2 of the covariance.
    _, lengths, right = np.linalg.svd(swag.factor["weight"][:, 0].numpy() * math.sqrt(2))
    directions = lengths[:2, None] * right[:2]
    center, covariance = exact(data, mean, directions, prior=2.0)
    coordinates = (found - mean) @ np.linalg.pinv(directions)
    np.testing.assert_allclose(mean + coordinates @ directions, found, atol=1e-9)
    assert (np.abs(coordinates.mean(0) - center) < 0.15 * np.sqrt(np.diag(covariance))).all()
    np.testing.assert_allclose(np.cov(coordinates.T), covariance, rtol=0.15, atol=0.1 * covariance.diagonal().min())


def exact(
    data: Batches, mean: npt.NDArray[np.floating[Any]], directions: npt.NDArray[np.floating[Any]], *, prior: float
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    """Return mean and covariance of the coordinates."""
    inputs = torch.cat([batch for batch, _ in data]).numpy()
    targets = torch.cat([batch for _, batch in data]).numpy()
    design = inputs @ directions.T
    covariance = np.linalg.inv(design.T @ design / NOISE**2 + np.eye(len(directions)) / prior**2)
    return covariance @ design.T @ (targets[:, 0] - inputs @ mean) / NOISE**2, covariance


def test_principal_directions_are_those_of_numpy() -> None:
    factor = {
        "a": torch.randn(5, 2, 3, generator=seeded(0)).double(),
        "b": torch.randn(5, generator=seeded(1)).double(),
    }
    zeros = {name: torch.zeros_like(tensor[0]) for name, tensor in factor.items()}
    found = AffineSubspace.principal(zeros, factor, 3).directions
    matrix = torch.cat([factor["a"].flatten(1), factor["b"][:, None]], 1).numpy()
    _, lengths, right = np.linalg.svd(matrix, full_matrices=False)
    rows = torch.cat([found["a"].flatten(1), found["b"][:, None]], 1).numpy()
    np.testing.assert_allclose(np.abs((rows * right[:3]).sum(1)), lengths[:3], rtol=1e-9)
    np.testing.assert_allclose(rows @ rows.T, np.diag(lengths[:3] ** 2), atol=1e-9)


def test_random_directions_have_unit_length() -> None:
    mean = {"a": torch.zeros(20, 30), "b": torch.zeros(7)}
    found = AffineSubspace.random(mean, 4, seeded(0)).directions
    rows = torch.cat([found["a"].flatten(1), found["b"]], 1)
    gram = rows @ rows.T
    torch.testing.assert_close(gram.diag(), torch.ones(4))
    assert (gram - torch.eye(4)).abs().max() < 0.2


class Tied(nn.Module):
    """A network that uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return out


@pytest.mark.parametrize("model", [network(), Tied().double()], ids=["normalized", "tied"])
def test_the_outputs_are_those_of_the_network_at_the_point(model: nn.Module) -> None:
    mean = {n: torch.randn(t.shape, generator=seeded(0)).double() for n, t in model.named_parameters()}
    subspace = AffineSubspace.random(mean, 2, seeded(1))
    buffers = {n: torch.rand(t.shape, generator=seeded(2)).to(t) + 1 for n, t in model.named_buffers()}
    reduced = SubspaceNetwork(model, subspace, buffers)
    assert [name for name, _ in reduced.named_parameters()] == ["coordinates"]
    coordinates = torch.tensor([0.7, -1.3]).double()
    inputs = torch.randn(4, 3, generator=seeded(3)).double()
    weights = {n: mean[n] + 0.7 * rows[0] - 1.3 * rows[1] for n, rows in subspace.directions.items()}
    expected = torch.func.functional_call(model.eval(), {**weights, **buffers}, (inputs,))
    found = torch.func.functional_call(reduced, {"coordinates": coordinates}, (inputs,))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(subspace.at(coordinates), weights)


@pytest.mark.parametrize("directions", ["pca", "random"])
def test_samples_are_in_the_subspace_and_predict(directions: str) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = SubspaceInference(rank=2, directions=directions, trajectory=QUICK, sampler=SHORT)
    result = method.fit(model, classes())
    posterior = samples_of(result)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert posterior.chains.tolist() == [0] * 5 + [1] * 5
    rows = torch.cat([tensor.flatten(1) for tensor in posterior.samples.values()], 1)
    values = torch.linalg.svdvals(rows - rows.mean(0))
    assert values[1] > 1e-6 * values[0]
    assert bool((values[2:] < 1e-9 * values[0]).all())
    assert len(result.history) == 8 + 25
    assert result.sampler is not None
    score = rc.score(posterior, rc.Task(model, classes(), likelihood="categorical"))
    assert score.nll < math.log(3)


def test_the_posterior_permutes() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    posterior = samples_of(SubspaceInference(rank=2, trajectory=QUICK, sampler=SHORT).fit(model, classes()))
    inputs = torch.randn(4, 3, generator=seeded(3)).double()
    spec = rc.trace_spec(model, inputs)
    element = rc.symmetry.Permutation.random(spec.layout, generator=seeded(4))
    permuted = posterior.permute(element)
    assert not torch.equal(permuted.samples["0.weight"], posterior.samples["0.weight"])
    for k in range(3):
        outputs = [torch.func.functional_call(model, dict(q.member(k).mean), (inputs,)) for q in (posterior, permuted)]
        torch.testing.assert_close(*outputs)


def test_a_run_resumes_in_either_part(tmp_path: Path) -> None:
    model = network()
    method = SubspaceInference(rank=2, trajectory=QUICK, sampler=SHORT)
    file = tmp_path / "state.safetensors"
    whole = samples_of(method.fit(model, classes(), checkpoint=file))
    (tmp_path / "state-coordinates.safetensors").unlink()
    resumed = method.fit(model, classes(), checkpoint=file)
    assert resumed.resumed_at == 8
    assert all(torch.equal(t, samples_of(resumed).samples[n]) for n, t in whole.samples.items())
    complete = method.fit(model, classes(), checkpoint=file)
    assert complete.resumed_at == 8 + 25
    assert all(torch.equal(t, samples_of(complete).samples[n]) for n, t in whole.samples.items())
    with pytest.raises(FileFormatError, match=r"state-coordinates\.safetensors belongs to another training problem"):
        method.replace(rank=3).fit(model, classes(), checkpoint=file)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SubspaceInference(rank=0), "rank: expected a value greater than 0, got 0"),
        (lambda: SubspaceInference(rank=5, trajectory=QUICK), "a `rank` of at most 4, the number of deviations"),
        (lambda: SubspaceInference(trajectory=SWAG(members=2)), "a `trajectory` of one network, got members=2"),
        (lambda: SubspaceInference(sampler=NUTS(warm_start=True)), "a `sampler` without `warm_start`"),
        (lambda: SubspaceInference(sampler=HMC(prior_scale={"*": 1.0})), "a number as `prior_scale` of the `sampler`"),
        (lambda: SubspaceInference(directions="curve"), "directions"),
        (lambda: rc.Inference.of({"name": "subspace", "sampler": {"name": "sgld"}}), "sampler"),
    ],
)
def test_wrong_options_are_explained(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_samples_that_do_not_fit_into_memory_are_rejected_before_training() -> None:
    method = SubspaceInference(trajectory=SWAG(epochs=10**6), sampler=NUTS(chains=10**6, draws=10**7))
    for call in (method.fit, method.check):
        with pytest.raises(InvalidInputError, match="use fewer `draws` of the `sampler`"):
            call(network(), classes())


def test_a_check_accepts_what_can_be_fitted() -> None:
    SubspaceInference(rank=2, trajectory=QUICK, sampler=SHORT).check(network(), classes())


def test_a_run_file_nests_its_parts() -> None:
    method = rc.Inference.of({
        "name": "subspace", "rank": 3, "trajectory": {"epochs": 10}, "sampler": {"name": "hmc", "chains": 2},
    })  # fmt: skip
    assert isinstance(method, SubspaceInference)
    assert method.trajectory == SWAG(epochs=10)
    assert method.sampler == HMC(chains=2)
