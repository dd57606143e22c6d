"""The Gaussian prior of training."""

from __future__ import annotations

import math

import torch

from rebasin_core.inference.prior import negative_log_prior, scales_of


def test_the_negative_log_prior_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 2), "b": (), "c": (4,), "d": (2, 2)}
    tensors = {n: torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for n, s in shapes.items()}
    precisions = {"a": 2.0, "b": 0.5, "c": 0.0}
    found = negative_log_prior(precisions, tensors)
    expected = sum(0.5 * weight * tensors[name].square().sum() for name, weight in precisions.items())
    assert torch.allclose(found, torch.as_tensor(expected))
    (3 * found).backward()
    for name, weight in precisions.items():
        gradient = tensors[name].grad
        if gradient is None:
            assert weight == 0.0
        else:
            assert torch.allclose(gradient, 3 * weight * tensors[name].detach())
    assert tensors["d"].grad is None
    assert float(negative_log_prior({}, tensors)) == 0.0


def test_scales_by_fan_in_are_those_of_he_initialization() -> None:
    tensors = {"conv": torch.empty(256, 8, 3, 3), "dense": torch.empty(400, 300), "bias": torch.zeros(400)}
    scales = scales_of(tensors, math.sqrt(2), by_fan_in=True)
    for name in ("conv", "dense"):
        torch.nn.init.kaiming_normal_(tensors[name], generator=torch.Generator().manual_seed(0))
        assert abs(float(tensors[name].std()) / scales[name] - 1) < 0.02
    assert scales["bias"] == math.sqrt(2)


def test_patterns_and_fan_in_together() -> None:
    tensors = {"a.weight": torch.zeros(5, 4), "b.weight": torch.zeros(5, 16), "b.bias": torch.zeros(5)}
    scales = scales_of(tensors, (("a.*", 1.0), ("*", 2.0)), by_fan_in=True)
    assert scales == {"a.weight": 0.5, "b.weight": 0.5, "b.bias": 2.0}
