"""The Gaussian prior of training."""

from __future__ import annotations

import torch

from rebasin_core.inference.prior import negative_log_prior


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
