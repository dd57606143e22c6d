"""Loss curves and their notes from hand-made loss estimates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.figure import Figure
from scipy.stats import t as student

from rebasin_core import LossCurve
from rebasin_core.barriers.notes import curve_notes
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.evaluation import LossEstimate
from rebasin_core.evaluation.trust import EXCESS_SHARE

NOISE = torch.tensor([1.0, -1.0, 0.5, -0.5] * 4, dtype=torch.float64)


def estimate(loss: float, noise: float = 0.01, **more: Any) -> LossEstimate:
    values: dict[str, Any] = {
        "gibbs": loss + 0.1,
        "score": 1 - loss,
        "score_name": "accuracy",
        "bias": 0.0,
        "example_losses": torch.tensor([loss - 0.1, loss + 0.1, loss - 0.05, loss + 0.05], dtype=torch.float64),
        "sample_influence": noise * NOISE,
        "effective_samples": torch.tensor([3.0, 8.0, 5.0, 7.0]),
        "bias_errors": torch.zeros(4),
    }
    return LossEstimate(loss, **(values | more))


T = (0.0, 0.25, 0.5, 0.75, 1.0)


LOSSES = ((0.2, 0.01, 0.01), (0.5, 0.02, 0.02), (0.9, 0.03, 0.04), (0.7, 0.02, 0.03), (0.4, 0.02, 0.02))


ESTIMATES = [estimate(loss, bias=bias, noise=noise) for loss, bias, noise in LOSSES]


def curve(*, random: bool = True, **options: Any) -> LossCurve:
    return LossCurve.of(T, ESTIMATES, random=random, **options)


def test_every_number_of_a_curve_is_the_one_of_its_name() -> None:
    found = curve(baseline=2.0)
    assert found.excess == pytest.approx((0.0, 0.25, 0.6, 0.35, 0.0))
    assert found.height == found.interior_excess == pytest.approx(0.6)
    assert (found.location, found.interior_location) == (0.5, 0.5)
    assert found.height_bias == pytest.approx(0.03 - (0.01 + 0.02) / 2)
    paired = (0.04 - (0.01 + 0.02) / 2) * NOISE
    assert found.height_stderr == pytest.approx(paired.std().item() / 4)
    assert found.stderr[2] == pytest.approx(0.04 * NOISE.std().item() / 4)
    assert found.height_data_stderr == pytest.approx(0.0, abs=1e-12)
    assert found.gibbs == pytest.approx([loss + 0.1 for loss in found.loss])
    assert found.score == pytest.approx([1 - loss for loss in found.loss])
    assert (set(found.effective_samples), set(found.least_effective_samples)) == ({5.0}, {3.0})
    assert found.degrees == 15
    assert found.chord == pytest.approx((0.2, 0.25, 0.3, 0.35, 0.4))
    assert (found.baseline, found.score_name, found.metric) == (2.0, "accuracy", "nll")


def test_the_degrees_of_freedom_of_independent_noise_are_those_of_satterthwaite() -> None:
    noise = torch.tensor([3.0, *[0.1, -0.1] * 7, 0.1], dtype=torch.float64)
    given = [replace(one, sample_influence=one.sample_influence[0] * noise, independent=True) for one in ESTIMATES]
    squares = noise.square()
    expected = (3 * squares.sum() ** 2 / squares.square().sum()).item()
    assert expected < 4
    assert LossCurve.of(T, given, random=True).degrees == pytest.approx(expected)


def test_a_curve_is_labeled_by_its_metric() -> None:
    found = curve(metric="brier")
    assert (found.metric, found.label, found.unit) == ("brier", "Brier score", "")


@pytest.mark.parametrize(
    "t", [(), (0.0, 0.25, 0.5, 0.75, 0.9), (0.1, 0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 0.25, 0.75, 1.0)]
)
def test_coefficients_increase_from_zero_to_one(t: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInputError, match="increase from 0 to 1"):
        LossCurve.of(t, ESTIMATES[: len(t)], random=True)


def test_the_interval_is_around_the_corrected_excess() -> None:
    found = curve()
    low, high = found.interval()
    assert (low + high) / 2 == pytest.approx(0.6 - 0.015)
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, 15) * found.height_stderr)
    unknown = replace(found, height_bias=math.nan)
    assert sum(unknown.interval(0.5)) / 2 == pytest.approx(0.6)
    points = curve(random=False)
    assert (points.stderr, points.height_stderr, points.degrees) == ((0.0,) * 5, 0.0, 0.0)
    assert points.interval() == (points.interior_excess, points.interior_excess)


def test_json_keeps_every_number_and_has_null_for_nan() -> None:
    found = replace(curve(), height_bias=math.nan)
    document = found.as_json()
    assert document["height_bias"] is document["baseline"] is None
    assert document["interior_excess"] == found.interior_excess
    read = LossCurve.from_json(json.loads(json.dumps(document)))
    assert math.isnan(read.height_bias)
    assert read.as_json() == document


def test_documents_of_earlier_versions_and_of_other_types() -> None:
    document = replace(curve(), metric="brier", label="Brier score", unit="").as_json()
    earlier = {name: value for name, value in document.items() if name not in {"label", "unit"}}
    earlier["above"] = earlier.pop("excess")
    earlier["above_stderr"] = earlier.pop("excess_stderr")
    read = LossCurve.from_json(earlier)
    assert (read.label, read.unit, read.metric) == ("brier", "", "brier")
    assert read.excess == pytest.approx(document["excess"])
    assert LossCurve.from_json(document).label == "Brier score"
    nll = {name: value for name, value in curve().as_json().items() if name not in {"label", "unit"}}
    assert LossCurve.from_json(nll).label == "loss"
    marked = {"kind": "curve", "version": 1, **document}
    assert LossCurve.from_json(marked).label == "Brier score"
    for wrong in ({**marked, "kind": "posterior"}, {**marked, "version": 2}):
        with pytest.raises(FileFormatError):
            LossCurve.from_json(wrong)


@pytest.mark.parametrize("excess", [False, True])
def test_a_plot_shows_the_curve_and_a_band_of_two_errors(*, excess: bool) -> None:
    found = curve()
    axes = Figure().subplots()
    assert found.plot(axes, excess=excess, label="aligned", color="C3", style="--") is axes
    (line,) = axes.get_lines()
    values, errors = (found.excess, found.excess_stderr) if excess else (found.loss, found.stderr)
    assert np.asarray(line.get_xydata()).tolist() == [list(pair) for pair in zip(T, values, strict=True)]
    assert (line.get_linestyle(), line.get_label(), line.get_color()) == ("--", "aligned", "C3")
    (band,) = axes.collections
    vertices = np.asarray(band.get_paths()[0].vertices)
    middle = sorted({round(y, 9) for x, y in vertices.tolist() if x == 0.5})
    assert middle == pytest.approx([values[2] - 2 * errors[2], values[2] + 2 * errors[2]])
    assert np.asarray(band.get_facecolor())[0, :3].tolist() == pytest.approx(colors.to_rgb("C3"))
    assert axes.get_xlabel() == "interpolation coefficient $t$"
    assert axes.get_ylabel() == ("excess loss (nats per example)" if excess else "loss (nats per example)")


def test_a_plot_without_axes_or_unit() -> None:
    axes = replace(curve(), label="error", unit="").plot()
    assert axes.get_ylabel() == "error"
    (line,) = axes.get_lines()
    assert line.get_linestyle() == "-"
    assert np.asarray(line.get_ydata()).tolist() == list(curve().loss)


def notes(*estimates: LossEstimate, random: bool = True, baseline: float = math.nan) -> tuple[str, ...]:
    return curve_notes((0.0, 0.5, 1.0), estimates, 1, random=random, baseline=baseline)


GOOD = estimate(0.2), estimate(0.5, noise=0.03), estimate(0.3, noise=0.02)


def test_a_good_curve_has_no_notes() -> None:
    assert notes(*GOOD, baseline=2.0) == ()


def test_copies_are_equal_endpoints() -> None:
    (note,) = notes(GOOD[0], GOOD[1], GOOD[0])
    assert "copies of one network" in note
    assert notes(GOOD[0], GOOD[0], GOOD[2]) == ()
    assert notes(GOOD[0], GOOD[2], GOOD[2]) == ()


@pytest.mark.parametrize(
    ("baseline", "who"), [(0.25, "the candidate is"), (0.1, "the reference and the candidate are")]
)
def test_endpoints_above_the_baseline(baseline: float, who: str) -> None:
    (note,) = notes(*GOOD, baseline=baseline)
    assert note.startswith(f"{who} no better than")
    assert notes(*GOOD, baseline=0.31) == ()


def test_endpoints_above_the_midpoint_by_more_than_two_errors() -> None:
    shared: dict[str, Any] = {"example_losses": torch.zeros(4, dtype=torch.float64)}
    ends = estimate(0.5, **shared), estimate(0.6, noise=0.02, **shared)
    assert not notes(ends[0], estimate(0.495, noise=0.05, **shared), ends[1])
    (note,) = notes(ends[0], estimate(0.4, noise=0.05, **shared), ends[1])
    assert note.startswith("both endpoints (loss 0.5 and 0.6) are worse than the midpoint (0.4)")
    # Single networks have no Monte Carlo error.
    assert notes(ends[0], estimate(0.495, noise=0.05, **shared), ends[1], random=False)
    # One endpoint alone is not both.
    assert not notes(estimate(0.3, **shared), estimate(0.4, noise=0.05, **shared), ends[1])


def test_untrusted_losses_are_named_by_their_points() -> None:
    bad = torch.full((4,), 0.1)
    some = notes(GOOD[0], replace(GOOD[1], bias_errors=bad), replace(GOOD[2], bias_errors=bad))
    assert some[0].startswith("the Monte Carlo errors of the losses at t = 0.5, 1 cannot be trusted: ")
    every = notes(*(replace(one, bias_errors=bad) for one in GOOD))
    assert every[0].startswith("the Monte Carlo errors of the losses along the path cannot be trusted: ")
    assert "more samples" in every[0]
    points = notes(*(replace(one, bias_errors=bad, is_point=True) for one in GOOD))
    assert not any("of the losses" in note for note in points)


def excess_is_trusted(*residuals: float, independent: bool = False, biases: tuple[float, ...] = (0.0,) * 3) -> bool:
    """Whether the error of the excess is trusted, for residual biases in units of its standard error."""
    stderr = (0.03 - (0.01 + 0.02) / 2) * NOISE.std().item() / 4
    given = [
        replace(one, bias_errors=torch.full((4,), stderr * residual), bias=stderr * bias, independent=independent)
        for one, residual, bias in zip(GOOD, residuals, biases, strict=True)
    ]
    return not any("error of the barrier" in note for note in notes(*given))


def test_the_residual_bias_of_an_excess() -> None:
    share = EXCESS_SHARE
    # What the points have in common cancels, but for a share of the weighted sum.
    assert excess_is_trusted(0.4, 0.4, 0.4)
    assert not excess_is_trusted(0.52, 0.52, 0.52)
    for at, first, last in ((0.95, 0, 0), (0, 1.9, 0), (0, 0, 1.9), (0.3, 0.25, 0.25)):
        assert excess_is_trusted(first * share, at * share, last * share)
    for at, first, last in ((1.05, 0, 0), (0, 2.1, 0), (0, 0, 2.1)):
        assert not excess_is_trusted(first * share, at * share, last * share)
    unknown = (replace(GOOD[0], bias_errors=None), *GOOD[1:])
    assert notes(*unknown) == ()


def test_the_bias_of_an_excess_with_independent_noise() -> None:
    for biases in ((0.0, 0.31, 0.0), (0.62, 0.0, 0.0), (0.0, 0.0, -0.62)):
        assert not excess_is_trusted(0, 0, 0, independent=True, biases=biases)
        assert excess_is_trusted(0, 0, 0, biases=biases)
    assert excess_is_trusted(0, 0, 0, independent=True, biases=(0.5, 0.5, 0.5))
