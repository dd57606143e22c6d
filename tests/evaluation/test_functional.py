"""Compiled models: the same function, for evaluation and for training."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

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
