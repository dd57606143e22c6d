from __future__ import annotations

from itertools import permutations

import pytest
import torch

from rebasin_core import wasserstein_distance
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import SamplesPosterior, geodesic


def samples(seed: int, count: int = 4) -> SamplesPosterior:
    g = torch.Generator().manual_seed(seed)
    return SamplesPosterior({"w": torch.randn(count, 2, 3, generator=g), "b": torch.randn(count, generator=g)})


def test_moments_are_weighted() -> None:
    q = SamplesPosterior({"w": torch.tensor([0.0, 4.0])}, weights=torch.tensor([3.0, 1.0]))
    assert q.mean["w"].item() == 1.0
    assert q.stddev["w"].item() == pytest.approx(3.0**0.5)


def test_samples_are_selected_with_their_weights(generator: torch.Generator) -> None:
    q = SamplesPosterior({"w": torch.tensor([0.0, 1.0])}, weights=torch.tensor([0.2, 0.8]))
    fraction = q.sample((4000,), generator=generator)["w"].mean().item()
    assert abs(fraction - 0.8) < 5 * (0.16 / 4000) ** 0.5


def test_distance_equals_brute_force() -> None:
    q, r = samples(0), samples(1)
    a, b = (torch.cat([s.samples["w"].flatten(1), s.samples["b"][:, None]], 1).double() for s in (q, r))
    best = min((a - b[list(p)]).square().sum(1).mean().item() for p in permutations(range(4)))
    assert wasserstein_distance(q, r) == pytest.approx(best**0.5)


def test_displacement_interpolation_requires_equal_numbers_of_samples() -> None:
    with pytest.raises(InvalidInputError, match="same number of equally weighted samples"):
        geodesic(samples(0, 4), samples(1, 5))


def test_invalid_weights_raise() -> None:
    for weights in (torch.tensor([1.0]), torch.tensor([1.0, -1.0]), torch.zeros(2)):
        with pytest.raises(InvalidInputError, match="expected 2 nonnegative weights"):
            SamplesPosterior({"w": torch.zeros(2)}, weights=weights)
    with pytest.raises(InvalidInputError, match="same number"):
        SamplesPosterior({"w": torch.zeros(2), "b": torch.zeros(3)})
