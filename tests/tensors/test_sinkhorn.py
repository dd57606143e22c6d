"""Sinkhorn normalization, compared with POT and with automatic differentiation through the iterations."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from rebasin_core.errors import ConvergenceWarning
from rebasin_core.tensors.sinkhorn import sinkhorn
from tests.benchmarks.sinkhorn import unrolled

ONES = torch.ones(4, 7, dtype=torch.float64)


def logits(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_normalized_matrices_are_doubly_stochastic() -> None:
    x = logits(4, 7, 7)
    found = sinkhorn(x, tolerance=1e-12)
    for dim in (-1, -2):
        torch.testing.assert_close(found.sum(dim), ONES)
    # The result is diag(u) exp(x) diag(v): log ratios are sums of a row term and a column term.
    logs = found.log() - x
    torch.testing.assert_close(logs[:, 1:, 1:] + logs[:, :1, :1], logs[:, 1:, :1] + logs[:, :1, 1:])


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_plan_is_that_of_pot(temperature: float) -> None:
    x = logits(9, 9)
    uniform = np.full(9, 1 / 9)
    plan = ot.sinkhorn(uniform, uniform, -x.numpy(), temperature, method="sinkhorn_log", stopThr=1e-14)
    found = sinkhorn(x, temperature=temperature, iterations=10_000, tolerance=1e-14)
    torch.testing.assert_close(found, torch.from_numpy(9 * plan), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 30])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_implicit_gradient_equals_that_of_unrolled_iterations(size: int, scale: float) -> None:
    x, weight = logits(3, size, size, scale=scale).requires_grad_(), logits(3, size, size, seed=1)
    (found,) = torch.autograd.grad((sinkhorn(x, iterations=3000, tolerance=1e-14) * weight).sum(), x)
    (expected,) = torch.autograd.grad((unrolled(x, 3000) * weight).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences() -> None:
    x = logits(5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: sinkhorn(t, temperature=0.5, iterations=1000, tolerance=1e-14), x)


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_near_permutations_are_finite(scale: float, dtype: torch.dtype) -> None:
    x = (scale * torch.eye(20, dtype=dtype)[torch.randperm(20)] + torch.randn(20, 20, dtype=dtype)).requires_grad_()
    found = sinkhorn(x)
    (gradient,) = torch.autograd.grad((found * torch.randn(20, 20, dtype=dtype)).sum(), x)
    torch.testing.assert_close(found.sum(0), torch.ones(20, dtype=dtype))
    assert bool(torch.isfinite(gradient).all())
    assert gradient.abs().max() < 1e-5  # the gradient vanishes at a permutation


def test_equal_rows_with_large_logits_do_not_overflow() -> None:
    x = torch.zeros(6, 6)
    x[:, 0] = 300.0
    torch.testing.assert_close(sinkhorn(x), torch.full((6, 6), 1 / 6))


def test_iterations_stop_at_the_maximum() -> None:
    x = logits(8, 8, scale=30.0)
    torch.testing.assert_close(sinkhorn(x, iterations=7, unconverged="allow"), unrolled(x, 7))


@pytest.mark.parametrize("temperature", [1e-1, 1e-2, 1e-3])
def test_unconverged_normalizations_give_a_warning(temperature: float) -> None:
    x = logits(30, 30)
    with pytest.warns(
        ConvergenceWarning, match=rf"after 100 iterations at temperature {temperature:g}, .* expected 1.0e-05"
    ):
        found = sinkhorn(x, temperature=temperature)
    assert (found.sum(-1) - 1).abs().max() > 1e-5
    torch.testing.assert_close(found.sum(-2), ONES.new_ones(30))
    enough = sinkhorn(x, temperature=max(temperature, 0.02), iterations=200_000)
    assert (enough.sum(-1) - 1).abs().max() <= 1e-5


def test_empty_and_one_by_one_matrices() -> None:
    assert sinkhorn(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    assert sinkhorn(torch.full((2, 1, 1), -700.0)).tolist() == [[[1.0]], [[1.0]]]
