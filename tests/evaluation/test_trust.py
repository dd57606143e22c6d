"""Which stated errors are trusted, and the intervals that they make."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import skew
from scipy.stats import t as student

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.trust import degrees_of_freedom, interval, why_untrusted


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, 95])
def test_levels_are_between_zero_and_one(level: float) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a level in \(0, 1\)"):
        interval(0.0, 1.0, 5.0, level)


@pytest.mark.parametrize("independent", [False, True])
def test_the_interval_of_a_loss_has_its_own_degrees_of_freedom(*, independent: bool) -> None:
    influence = torch.tensor([3.0, -0.2, 0.2, -0.2, 0.2]).double()
    loss = LossEstimate(
        loss=1.0,
        gibbs=1.0,
        score=0.0,
        score_name="p",
        bias=0.25,
        example_losses=torch.ones(5),
        sample_influence=influence,
        independent=independent,
    )
    low, high = loss.interval()
    assert (low, high) == loss.interval(0.95)
    # Satterthwaite: 3 (sum x^2)^2 / sum x^4, for noise of each example's own.
    degrees = 3 * (9 + 4 * 0.2**2) ** 2 / (81 + 4 * 0.2**4) if independent else 4.0
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, degrees) * influence.std().item() / 5**0.5)
    assert (low + high) / 2 == pytest.approx(0.75)


def test_degrees_of_freedom_of_unequal_examples() -> None:
    influence = torch.cat([torch.full((3,), 2.0), torch.full((97,), 0.01)]).double()
    squares = influence.square()
    expected = 3 * squares.sum() ** 2 / squares.square().sum()
    assert degrees_of_freedom(influence, independent=True) == pytest.approx(expected.item())
    assert expected < 10
    assert degrees_of_freedom(influence, independent=False) == 99
    assert degrees_of_freedom(torch.zeros(4), independent=True) == 3
    assert degrees_of_freedom(torch.ones(1), independent=False) == 1
    assert degrees_of_freedom(torch.tensor([3.0, -1.0]), independent=True) == 1


def draws(share: float) -> torch.Tensor:
    """Sixteen draws, one of which makes up a share of the skewness over the root of their number."""
    numbers = torch.tensor([0.1, -0.1] * 8).double()
    numbers[0] += share
    return numbers


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_few_draws_that_make_up_the_error_are_not_trusted(scale: float, shift: float) -> None:
    for share, warned in ((0.1, False), (0.2, False), (0.6, True), (2.0, True)):
        numbers = scale * (draws(share) + shift)
        # SciPy's skewness is that of the draws; over the root of their number it is at most about 1.
        assert (abs(skew(numbers.numpy())) / 4 > 0.3) == warned
        reason = why_untrusted(numbers, 0.0, independent=False)
        assert (reason is not None) == warned
        assert why_untrusted(numbers, 0.0, independent=True) is None


def test_a_bias_that_is_not_small_is_not_trusted_where_examples_have_noise_of_their_own() -> None:
    numbers = draws(0.1)
    stderr = numbers.std().item() / 4
    for bias in (0.29 * stderr, -0.29 * stderr):
        assert why_untrusted(numbers, 0.0, independent=True, bias=bias) is None
    for bias in (0.31 * stderr, -0.31 * stderr):
        assert "a few examples dominate it" in str(why_untrusted(numbers, 0.0, independent=True, bias=bias))
        # With noise that all examples share, the skewness tells.
        assert why_untrusted(numbers, 0.0, independent=False, bias=bias) is None
    # The sum over many examples of equal variance is nearly normal.
    many = torch.tensor([1.0, -1.0] * 76).double()
    bias = many.std().item() / len(many) ** 0.5
    assert why_untrusted(many, 0.0, independent=True, bias=bias) is None
    assert why_untrusted(many[:150], 0.0, independent=True, bias=bias) is not None


def test_a_bias_that_leaves_out_much_is_not_trusted() -> None:
    numbers = draws(0.1)
    stderr = numbers.std().item() / 4
    assert why_untrusted(numbers, 0.09 * stderr, independent=True) is None
    assert "vary too much between samples" in str(why_untrusted(numbers, 0.11 * stderr, independent=True))
    assert why_untrusted(numbers, 0.11 * stderr, independent=True, share=0.2) is None


def test_the_least_number_of_draws_is_eight() -> None:
    numbers = torch.tensor([0.1, -0.1] * 8).double()
    assert why_untrusted(numbers[:8], 0.0, independent=False) is None
    assert "from 7 independent draws" in str(why_untrusted(numbers[:7], 0.0, independent=False))
    assert why_untrusted(numbers[:7], 0.0, independent=True) is None
    assert "from 2 independent draws" in str(why_untrusted(numbers[:2], 0.0, independent=False))
    assert why_untrusted(numbers[:1], 5.0, independent=False) is None
    assert why_untrusted(1e-9 * numbers[:7], 0.0, independent=False) is None
