"""The excess over the linear interpolation of the endpoints, by hand."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.barriers.chord import excess_over_chord, interior_maximum
from rebasin_core.evaluation import LossEstimate


def estimate(influence: torch.Tensor, loss: float = 0.0) -> LossEstimate:
    return LossEstimate(loss, 0.0, 0.0, "accuracy", 0.0, torch.zeros(2), influence)


NOISE = torch.tensor([1.0, -2.0, 3.0])


def test_numbers_and_tensors_are_subtracted_in_float64() -> None:
    at = estimate(4 * NOISE, 1.0)
    first = estimate(NOISE, 0.5)
    last = estimate(2 * NOISE, 0.1)
    assert excess_over_chord("loss", 0.25, at, first, last).item() == pytest.approx(1.0 - 0.75 * 0.5 - 0.25 * 0.1)
    excess = excess_over_chord("sample_influence", 0.25, at, first, last)
    assert excess.dtype == torch.float64
    torch.testing.assert_close(excess, (4 - 0.75 - 0.5) * NOISE.double())


@pytest.mark.parametrize("zeros", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_endpoints_without_noise_may_have_another_number_of_zeros(zeros: tuple[int, ...]) -> None:
    scales = (1.0, -0.5, -0.5)
    given = [estimate(torch.zeros(5)) if index in zeros else estimate(NOISE) for index in range(3)]
    expected = sum(scale for index, scale in enumerate(scales) if index not in zeros) * NOISE.double()
    torch.testing.assert_close(excess_over_chord("sample_influence", 0.5, *given), expected)
    # Below rounding is zero; larger noise of another shape is a mistake.
    small = [estimate(torch.full((5,), 1e-10)) if index in zeros else estimate(NOISE) for index in range(3)]
    torch.testing.assert_close(excess_over_chord("sample_influence", 0.5, *small), expected)


def test_all_zeros_have_the_shape_of_the_point() -> None:
    given = estimate(torch.zeros(4)), estimate(torch.zeros(2)), estimate(torch.zeros(3))
    assert excess_over_chord("sample_influence", 0.5, *given).tolist() == [0.0] * 4


def test_the_interior_maximum_leaves_out_the_endpoints() -> None:
    assert interior_maximum([0.0, -3.0, -1.0, -2.0, 0.0]) == 2
    assert interior_maximum([5.0, 1.0, 9.0]) == 1
    assert interior_maximum([0.0, 1.0]) == 1
    assert interior_maximum([2.0, 1.0]) == 0
