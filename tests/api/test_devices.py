"""Networks on a device: the same results as on the CPU, on the device of the inputs."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.evaluation import (
    FunctionalModel,
    HeldTask,
    MethodName,
    PrecisionName,
    Sampling,
    held_batches,
    predict,
)
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.tensors.noise import on_device

ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[12, 10])
CPU = torch.device("cpu")


def batches(shape: tuple[int, ...] = (6,)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(30, *shape, generator=generator), torch.arange(30) % 3) for _ in range(2)]


def network(device: torch.device, seed: int = 0) -> nn.Module:
    return ARCHITECTURE.build((6,), 3, generator=torch.Generator().manual_seed(seed)).to(device)


def residual(device: torch.device, seed: int = 0) -> tuple[nn.Module, rc.PermutationSpec]:
    architecture = rc.architectures.CifarResNetArchitecture(depth=8)
    model = architecture.build((3, 8, 8), 3, generator=torch.Generator().manual_seed(seed)).to(device).eval()
    return model, architecture.spec(model)


def gaussian(device: torch.device, seed: int = 0) -> rc.posteriors.DiagonalGaussianPosterior:
    mean = {name: tensor.detach() for name, tensor in named_tensors(network(device, seed)).items()}
    return rc.posteriors.DiagonalGaussianPosterior(
        mean, {name: 0.1 * tensor.abs() + 0.01 for name, tensor in mean.items()}
    )


def close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].cpu(), tensor.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", ["weight", "frank_wolfe", "activation", "transport"])
def test_matching_residual_networks(path: str, device: torch.device) -> None:
    data, found = batches((3, 8, 8)), []
    for d in (CPU, device):
        (first, spec), (second, _) = (residual(d, seed) for seed in (0, 1))
        found.append(rc.match(first, second, spec, path, task=rc.Task(first, data)))
    assert found[1].objective == pytest.approx(found[0].objective, rel=1e-3)
    permuted = found[1].apply(second)
    assert {tensor.device.type for tensor in named_tensors(permuted).values()} == {device.type}
    inputs = data[0][0].to(device)
    torch.testing.assert_close(permuted.eval()(inputs), second(inputs), rtol=1e-3, atol=1e-4)


def test_different_widths(device: torch.device) -> None:
    wide = rc.architectures.MLPArchitecture(hidden=[20, 15])
    other = wide.build((6,), 3, generator=torch.Generator().manual_seed(3))
    found = []
    for d in (CPU, device):
        model = network(d)
        first = rc.posteriors.PointPosterior.from_module(model)
        second = rc.posteriors.PointPosterior.from_module(other.to(d))
        specs = ARCHITECTURE.spec(model), wide.spec(other)
        data = [(torch.zeros(2, 6), torch.zeros(2))]
        found.append(
            rc.matchers.TransportMatcher().couple(first, second, *specs, model=model, data=data).apply(second.mean)
        )
    close(found[1], found[0])
    assert all(tensor.device.type == device.type for tensor in found[1].values())


def test_many_networks(device: torch.device) -> None:
    found = []
    for d in (CPU, device):
        models = [network(d, seed) for seed in range(3)]
        found.append(rc.match_many(models, ARCHITECTURE.spec(models[0]), matcher="weight"))
    assert found[1].trace == pytest.approx(found[0].trace, rel=1e-4)
    assert found[1].between(0, 1).compose(found[1].between(1, 0)).is_identity
    close(dict(found[1].center.mean), dict(found[0].center.mean))


def test_samples(device: torch.device) -> None:
    found = []
    for d in (CPU, device):
        models = [network(d, seed) for seed in range(4)]
        tensors = [{name: tensor.detach() for name, tensor in named_tensors(model).items()} for model in models]
        found.append(rc.summarize(tensors, ARCHITECTURE.spec(models[0]), kind="low_rank_gaussian", rank=2))
    close(dict(found[1].posterior.stddev), dict(found[0].posterior.stddev), 1e-4)


@pytest.mark.filterwarnings("ignore::rebasin_core.errors.AlignmentWarning")  # the networks are not trained
@pytest.mark.parametrize("repair", [None, "reset", "repair"])
def test_merging(repair: Literal["reset", "repair"] | None, device: torch.device) -> None:
    found = []
    for d in (CPU, device):
        (first, spec), (second, _) = (residual(d, seed) for seed in (0, 1))
        merged = rc.merge([first, second], spec, task=rc.Task(first, batches((3, 8, 8))), repair=repair)
        found.append({**merged.posterior.mean, **merged.posterior.buffers})
    close(found[1], found[0], 1e-3)


@pytest.mark.parametrize("name", ["pointwise", "marginalized", "reset", "repair"])
def test_barriers_of_single_networks(name: str, device: torch.device) -> None:
    curves = []
    for d in (CPU, device):
        (first, _), (second, _) = (residual(d, seed) for seed in (0, 1))
        data = batches((3, 8, 8))
        estimator: dict[str, object] = {"name": name, "num_points": 3}
        if name in {"reset", "repair"}:
            estimator = {"name": name, "estimator": {"name": "pointwise", "num_points": 3}}
        curves.append(rc.barrier(first, second, rc.Task(first, data, calibration=data), estimator=estimator))
    assert curves[1].loss == pytest.approx(curves[0].loss, rel=1e-3)


@pytest.mark.parametrize("method", ["loop", "vectorized", "local"])
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_scores_of_distributions(method: MethodName, precision: PrecisionName, device: torch.device) -> None:
    # Noise is sampled on the device of the networks: different samples, equal losses up to the standard error.
    scores = []
    for d in (CPU, device):
        options = rc.EvaluationOptions(method=method, precision=precision)
        scores.append(rc.score(gaussian(d), rc.Task(network(d), batches()), num_samples=256, evaluation=options))
    assert scores[1].nll == pytest.approx(scores[0].nll, abs=6 * scores[0].nll_stderr + 1e-6)


def test_planes_hulls_and_matrices(device: torch.device) -> None:
    found = []
    for d in (CPU, device):
        models = [network(d, seed) for seed in range(3)]
        plane = rc.loss_plane(models[0], models[1], models[2], rc.Task(models[0], batches()), num_points=3)
        hull = rc.hull_losses(models, rc.Task(models[0], batches()), num_points=4)
        spec = ARCHITECTURE.spec(models[0])
        matrix = rc.barrier_matrix(models, rc.Task(models[0], batches()), spec=spec, estimator="pointwise")
        assert matrix.aligned is not None
        found.append({"plane": plane.loss, "hull": hull.loss, "aligned": matrix.aligned})
    close(found[1], found[0], 1e-4)


def test_discrepancies(device: torch.device) -> None:
    inputs = batches()[0][0]
    found = []
    for d in (CPU, device):
        first, second = gaussian(d, 0), gaussian(d, 1)
        spec = ARCHITECTURE.spec(network(d))
        found.append((
            rc.discrepancy(first, second, spec, num_samples=8),
            rc.discrepancy(first, second, spec, method="canonical", symmetry="full", num_samples=8),
            rc.function_discrepancy(first, second, network(d), inputs.to(d), num_samples=8),
        ))
    for one, other in zip(*found, strict=True):
        assert other.squared == pytest.approx(one.squared, rel=1e-3, abs=1e-4)
        assert other.p_value == one.p_value


def test_canonical_forms_and_information(device: torch.device) -> None:
    found = []
    for d in (CPU, device):
        model = network(d)
        spec = ARCHITECTURE.spec(model)
        form = rc.analysis.canonical_form({name: t.detach() for name, t in named_tensors(model).items()}, spec)
        found.append(dict(form.tensors))
        information = rc.analysis.permutation_information(gaussian(d), spec)
        assert 0 <= information.upper <= information.log_order + 5 * information.upper_stderr
    close(found[1], found[0])


@pytest.mark.parametrize("method", ["mean_field_vi", "map", "deep_ensemble", "swag", "sgld", "sghmc"])
def test_training_stays_on_the_device(method: str, device: torch.device) -> None:
    options: dict[str, Any] = {"burn_in": 2} if method in {"sgld", "sghmc"} else {}
    posterior = rc.build("inference", name=method, epochs=4, **options).fit(network(device), batches()).posterior
    assert posterior.device.type == device.type
    assert all(tensor.device.type == device.type for tensor in posterior.stddev.values())
    samples = posterior.sample((2,), generator=torch.Generator().manual_seed(0))
    assert {tensor.device.type for tensor in samples.values()} == {device.type}


def test_predictions_stay_on_the_device(device: torch.device) -> None:
    model = FunctionalModel(network(device), device=device)
    held = held_batches(model, batches())
    options = rc.EvaluationOptions(method="vectorized", chunk_size=64)
    found = predict(
        gaussian(device), HeldTask(model, held, rc.evaluation.CategoricalLikelihood()), Sampling(64, 0, options)
    )
    assert found.log_prob.shape == (64, 60)
    assert found.log_prob.device.type == device.type


def test_a_generator_on_a_device(device: torch.device) -> None:
    given = torch.Generator().manual_seed(3)
    first = on_device(given, device)
    assert first.device.type == device.type
    assert (first is given) == (device.type == "cpu")
    second = on_device(torch.Generator().manual_seed(3), device)
    assert first.initial_seed() == second.initial_seed()
    assert on_device(first, device) is first
