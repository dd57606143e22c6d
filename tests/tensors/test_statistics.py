from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rebasin_core.tensors.statistics import (
    gaussian_kl,
    isotropic_kl,
    log_mean_exp,
    mean_stderr,
    symmetrization_bound,
)


def test_kl_equals_torch_distributions(generator: torch.Generator) -> None:
    m, n = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    s, r = torch.rand(2, 7, 3, generator=generator, dtype=torch.float64) + 0.1
    assert gaussian_kl(m, s, n, r).item() == pytest.approx(kl_divergence(Normal(m, s), Normal(n, r)).sum().item())
    prior = Normal(torch.zeros_like(m), 0.3)
    assert isotropic_kl(m, s, 0.3).item() == pytest.approx(kl_divergence(Normal(m, s), prior).sum().item())


def test_log_mean_exp_does_not_overflow() -> None:
    assert log_mean_exp(torch.tensor([1000.0, 1000.0])).item() == 1000.0
    assert log_mean_exp(torch.tensor([0.0, math.log(3.0)])).item() == pytest.approx(math.log(2.0))


def test_stderr_of_one_value_is_nan() -> None:
    assert math.isnan(mean_stderr(torch.tensor([1.0])).item())
    assert mean_stderr(torch.tensor([0.0, 2.0])).item() == pytest.approx(1.0)


def test_symmetrization_bound_of_a_symmetric_and_of_a_separated_density() -> None:
    log_density = torch.tensor(-3.0, dtype=torch.float64)
    same = symmetrization_bound(log_density, log_density.expand(7))
    assert same.item() == pytest.approx(0.0, abs=1e-15)
    separated = symmetrization_bound(log_density, torch.full((7,), -1e4, dtype=torch.float64))
    assert separated.item() == pytest.approx(math.log(8))
    others = torch.tensor([-2.0, -5.0], dtype=torch.float64)
    expected = -3.0 - math.log((math.exp(-3) + math.exp(-2) + math.exp(-5)) / 3)
    assert symmetrization_bound(log_density, others).item() == pytest.approx(expected, rel=1e-14)


def test_the_gradient_of_the_isotropic_kl_in_transforms() -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    s = (torch.rand(3, 2, generator=generator, dtype=torch.float64) + 0.1).requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(isotropic_kl, (m, s, scale))
    assert torch.autograd.gradgradcheck(isotropic_kl, (m, s, scale))
    batched = torch.vmap(isotropic_kl, in_dims=(0, 0, None))(m, s, scale)
    assert torch.allclose(batched, torch.stack([isotropic_kl(*pair, scale) for pair in zip(m, s, strict=True)]))
    per_row = torch.vmap(torch.func.grad(isotropic_kl), in_dims=(0, 0, None))(m.detach(), s.detach(), scale.detach())
    (expected,) = torch.autograd.grad(isotropic_kl(m, s, scale), m)
    assert torch.allclose(per_row, expected)
