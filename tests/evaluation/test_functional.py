"""Compiled models: the same function, for evaluation and for training."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import EvaluationOptions, Evaluator, FunctionalModel

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def classes() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(32) % 3
    inputs = 2 * torch.eye(3)[targets] + torch.randn(32, 3, generator=generator)
    return list(zip(inputs.split(16), targets.split(16), strict=True))


@pytest.mark.nightly
@needs_compiler
def test_compiled_models_give_the_same_losses_and_training() -> None:
    model = network()
    stddev = {name: torch.full_like(p, 0.1) for name, p in model.named_parameters()}
    q = rc.posteriors.DiagonalGaussianPosterior(rc.posteriors.PointPosterior.from_module(model).mean, stddev)
    plain, compiled = (
        Evaluator(rc.Task(model, classes()), q, num_samples=6, options=options).loss(q)
        for options in (EvaluationOptions(method="loop"), EvaluationOptions(method="loop", compiled=True))
    )
    torch.testing.assert_close(compiled.example_losses, plain.example_losses, rtol=1e-5, atol=1e-6)
    for method in (rc.inference.MAPInference(epochs=2), rc.inference.MeanFieldVI(epochs=2, estimator="weights")):
        first, second = (method.fit(model, classes(), compiled=compiled).posterior for compiled in (False, True))
        torch.testing.assert_close(dict(second.mean), dict(first.mean), rtol=1e-4, atol=1e-5)


def test_compiled_local_reparameterization_raises() -> None:
    with pytest.raises(InvalidInputError, match="`compiled` requires estimator='weights', got 'local'"):
        rc.inference.MeanFieldVI(epochs=1).fit(network(), classes(), compiled=True)


def test_the_compiled_model_is_cached() -> None:
    functional = FunctionalModel(network())
    assert functional.compiled() is functional.compiled()
    assert functional.compiled() is not functional


class Fetching(nn.Module):
    """Reads its parameters by `get_parameter`, which accepts no other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 3)

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(inputs @ self.get_parameter("first.weight").T + self.first.bias)
        output: torch.Tensor = self.last(hidden)
        return output


def test_models_that_fetch_parameters_by_name_use_the_given_tensors() -> None:
    other, inputs = Fetching(), classes()[0][0]
    found = FunctionalModel(Fetching())(dict(other.named_parameters()), inputs)
    torch.testing.assert_close(found, other(inputs))
    (gradient,) = torch.autograd.grad(found.sum(), other.first.weight)
    (expected,) = torch.autograd.grad(other(inputs).sum(), other.first.weight)
    torch.testing.assert_close(gradient, expected)
