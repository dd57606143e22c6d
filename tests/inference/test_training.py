"""Options of training: limits of gradients, matrix products in bfloat16, and learning rates of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rebasin_core.errors import ConfigError
from rebasin_core.inference import DeepEnsemble, MAPInference, MeanFieldVI, OptimizerSpec, ScheduleSpec
from rebasin_core.posteriors import SamplesPosterior

SGD = OptimizerSpec(name="SGD", lr=0.5)


def problem() -> tuple[nn.Sequential, list[tuple[torch.Tensor, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    targets = torch.randint(3, (64,), generator=generator)
    return model, [(x[:32], targets[:32]), (x[32:], targets[32:])]


def test_clipped_steps_are_those_of_torch() -> None:
    model, data = problem()
    posterior = MAPInference(epochs=2, optimizer=SGD, prior_scale=1e6, max_grad_norm=0.1).fit(model, data).posterior
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        for inputs, targets in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            assert nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
            optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(posterior.mean[name], parameter.detach(), atol=1e-5, rtol=1e-5)


def test_networks_of_an_ensemble_are_clipped_one_by_one() -> None:
    model, data = problem()
    alone = MAPInference(epochs=2, optimizer=SGD, max_grad_norm=0.1).fit(model, data).posterior
    together = DeepEnsemble(members=3, epochs=2, optimizer=SGD, max_grad_norm=0.1).fit(model, data).posterior
    assert isinstance(together, SamplesPosterior)
    for name, tensor in alone.mean.items():
        torch.testing.assert_close(together.samples[name][0], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        MAPInference(),
        DeepEnsemble(members=2),
        MeanFieldVI(estimator="weights"),
        MeanFieldVI(),
        MeanFieldVI(estimator="flipout"),
    ],
)
def test_training_in_bfloat16_is_close_but_not_equal(method: MAPInference | MeanFieldVI | DeepEnsemble) -> None:
    model, data = problem()
    changes: dict[str, Any] = {"epochs": 20, "optimizer": OptimizerSpec(name="Adam", lr=0.01)}
    full = type(method)(**{**dict(method), **changes}).fit(model, data)
    half = type(method)(**{**dict(method), **changes, "precision": "bfloat16"}).fit(model, data)
    assert half.posterior.dtype == torch.float32
    assert abs(half.history[-1] - full.history[-1]) < 0.03 * abs(full.history[0])
    assert half.history != full.history


def test_layers_compute_in_bfloat16_and_losses_in_single_precision() -> None:
    model, data = problem()
    seen = []
    handle = model[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    MAPInference(epochs=1, precision="bfloat16").fit(model, data)
    handle.remove()
    assert set(seen) == {torch.bfloat16}


def test_standard_deviations_have_their_own_learning_rate() -> None:
    model, data = problem()
    frozen = MeanFieldVI(epochs=3, optimizer=SGD, stddev_lr=1e-30, initial_stddev=0.02).fit(model, data).posterior
    trained = MeanFieldVI(epochs=3, optimizer=SGD, stddev_lr=0.5, initial_stddev=0.02).fit(model, data).posterior
    for name, stddev in frozen.stddev.items():
        torch.testing.assert_close(stddev, torch.full_like(stddev, 0.02))
        assert not torch.allclose(trained.stddev[name], stddev)
        assert not torch.equal(frozen.mean[name], dict(model.named_parameters())[name])


def test_initial_standard_deviations_relative_to_the_size_of_tensors() -> None:
    model, data = problem()
    with torch.no_grad():
        dict(model.named_parameters())["2.bias"].zero_()
    still = OptimizerSpec(name="SGD", lr=0.0)
    method = MeanFieldVI(epochs=1, optimizer=still, relative_stddev=0.1, initial_stddev=0.003)
    posterior = method.fit(model, data).posterior
    for name, parameter in model.named_parameters():
        size = float(parameter.detach().pow(2).mean().sqrt())
        torch.testing.assert_close(posterior.stddev[name], torch.full_like(parameter, 0.1 * size or 0.003))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moped": 0.1, "relative_stddev": 0.1}, "both set the initial standard deviations"),
        (
            {"stddev_lr": 0.1, "schedule": ScheduleSpec(name="OneCycleLR", max_lr=0.1, total_steps=10)},
            "needs a schedule that multiplies the learning rates; `OneCycleLR` sets one",
        ),
        ({"max_grad_norm": 0.0}, "greater than 0"),
        ({"precision": "half"}, "'full' or 'bfloat16'"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeanFieldVI(**options)
