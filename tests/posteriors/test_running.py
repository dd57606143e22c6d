"""Barycenters of all posteriors but one, against those of the remaining list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior
from rebasin_core.posteriors.barycenters import barycenter_or_moments
from rebasin_core.posteriors.running import LeaveOneOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.posteriors import Posterior


def random_point(generator: torch.Generator) -> PointPosterior:
    buffers = {"count": torch.tensor(3), "var": torch.rand(2, generator=generator)}
    return PointPosterior({"w": 100 + torch.randn(3, 2, generator=generator)}, buffers=buffers)


def random_gaussian(generator: torch.Generator) -> DiagonalGaussianPosterior:
    mean = {"w": torch.randn(4, generator=generator), "b": torch.randn((), generator=generator)}
    return DiagonalGaussianPosterior(mean, {name: torch.rand(t.shape, generator=generator) for name, t in mean.items()})


def random_samples(generator: torch.Generator) -> SamplesPosterior:
    return SamplesPosterior({"w": torch.randn(3, 5, generator=generator)})


def mixed(generator: torch.Generator) -> Posterior:
    if torch.rand((), generator=generator) < 0.5:
        return DiagonalGaussianPosterior({"w": torch.randn(5, generator=generator)}, {"w": torch.zeros(5)})
    return random_samples(generator)


@pytest.mark.parametrize("make", [random_point, random_gaussian, random_samples, mixed])
def test_the_barycenter_without_one_posterior(make: Callable[[torch.Generator], Posterior]) -> None:
    generator = torch.Generator().manual_seed(0)
    current = [make(generator) for _ in range(6)]
    weights = [0.1, 0.3, 0.0, 0.2, 0.25, 0.15]
    running = LeaveOneOut(current, weights)
    for step in range(200):
        index = int(torch.randint(6, (), generator=generator))
        others = [k for k in range(6) if k != index]
        expected, _ = barycenter_or_moments([current[k] for k in others], [weights[k] for k in others])
        found = running.without(index)
        assert found is not None
        assert type(found) is type(expected)
        for mine, right in ((found.mean, expected.mean), (found.stddev, expected.stddev)):
            for name, tensor in right.items():
                assert torch.allclose(mine[name], tensor, rtol=1e-5, atol=1e-6)
        assert all(torch.allclose(found.buffers[name], t) for name, t in expected.buffers.items())
        current[index] = make(generator)
        running.replace(index, current[index])
        if step == 100:
            running.refresh()
    assert running.posteriors == tuple(current)


def test_all_other_weights_zero() -> None:
    q = PointPosterior({"w": torch.zeros(2)})
    running = LeaveOneOut([q, q], [1.0, 0.0])
    assert running.without(0) is None
    assert running.without(1) is not None
