"""The table at the end of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.report.width import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.barriers.curve import LossCurve


def barrier_table(
    curves: Mapping[str, LossCurve],
    distances: Mapping[str, float | None],
    means: Mapping[str, float] | None = None,
    *,
    width: int | None = None,
) -> str:
    """Return a readable table of barriers, the unaligned one first.

    Args:
        curves: Curves by label.
        distances: 2-Wasserstein distances by label.
        means: Barriers between the means of the same posteriors, by label; no column if there are none.
        width: The number of characters on a line, beyond which columns go into another table below; no limit if None.

    Returns:
        The table as text.
    """
    headings, rows = barrier_rows(curves, distances, means)
    # Two lines a heading keep the table narrow enough for a terminal.
    headers = [heading.replace("|", "\n") for heading in headings]
    return plain_table(rows, headers, align=["left", *["right"] * (len(headers) - 1)], width=width)


def barrier_rows(
    curves: Mapping[str, LossCurve], distances: Mapping[str, float | None], means: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of a table of barriers, as text.

    The signed excess is the largest between the ends: the barrier, or below zero where there is none. Errors, bias and
    place are its own. There is no sampling error of single networks.

    Args:
        curves: Curves by label.
        distances: 2-Wasserstein distances by label.
        means: Barriers between the means of the same posteriors, by label; no column if there are none.

    Returns:
        Headings, with a bar where a line may be broken, and one row a label.
    """
    name = {"accuracy": "accuracy", "mean_squared_error": "MSE"}
    rows = []
    for label, curve in curves.items():
        middle = min(enumerate(curve.t), key=lambda place: abs(place[1] - 0.5))[0]
        distance = distances.get(label)
        rows.append([
            label,
            f"{curve.height:.4f}",
            f"{curve.interior_excess:+.4f}",
            _error(curve.height_stderr if curve.is_random else math.nan),
            _error(curve.height_data_stderr),
            _error(curve.height_bias if curve.is_random else math.nan),
            *([] if not means else [_error(means.get(label, math.nan))]),
            f"{curve.interior_location:.2f}",
            f"{curve.loss[0]:.4f}, {curve.loss[-1]:.4f}",
            f"{curve.score[middle]:.4f}",
            "-" if distance is None else f"{distance:.2f}",
        ])
    first = next(iter(curves.values()))
    score = name.get(first.score_name, first.score_name)
    unit = "(nats)" if first.unit.startswith("nats") else f"({first.metric})"
    headings = [
        "alignment",
        f"barrier|{unit}",
        "signed|excess",
        "±|sampling",
        "±|data",
        "bias",
        *([] if not means else ["means|alone"]),
        "at t",
        "end|losses",
        f"{score}|at 0.5",
        "W2|distance",
    ]
    return headings, rows


def best_alignment(curves: Mapping[str, LossCurve]) -> tuple[str, str, str]:
    """Return what alignment bought, as text.

    Args:
        curves: Curves by label, the unaligned one first.

    Returns:
        The label of the lowest signed excess, the unaligned barrier and that one, each with its standard error
        (`error_name`).
    """
    unaligned, *others = curves
    best = min(others, key=lambda label: curves[label].interior_excess)
    return best, stated_height(curves[unaligned]), stated_height(curves[best])


def stated_height(curve: LossCurve) -> str:
    """Return a barrier with its standard error, as text; where it is zero, with the signed excess between the ends.

    Args:
        curve: The curve.

    Returns:
        Such as ``0.1234 ± 0.0056``, or ``0 (between the ends -0.0123 ± 0.0045)``.
    """
    error = curve.height_stderr if curve.is_random else curve.height_data_stderr
    excess = f"{curve.interior_excess:.4f} ± {error:.4f}"
    if curve.interior_excess > 0 and excess != "0.0000 ± 0.0000":
        return excess
    return f"0 (between the ends {curve.interior_excess:+.2g} ± {error:.1g})"


def error_name(curve: LossCurve) -> str:
    """Return which standard error `stated_height` gives: that of sampling, or for single networks that of the data.

    Args:
        curve: The curve.

    Returns:
        ``the Monte Carlo standard error`` or ``the standard error from the data``.
    """
    return "the Monte Carlo standard error" if curve.is_random else "the standard error from the data"


def barrier_notes(curves: Mapping[str, LossCurve]) -> list[str]:
    """Return what to bear in mind when reading a table of barriers (`LossCurve.notes`).

    Args:
        curves: Curves by label.

    Returns:
        One sentence a note, with the labels of the curves that it is about, unless it is about all of them.
    """
    labels: dict[str, list[str]] = {}
    for label, curve in curves.items():
        for note in curve.notes:
            labels.setdefault(note, []).append(label)
    return [
        f"{note[0].upper()}{note[1:]}." if len(own) == len(curves) else f"{', '.join(own)}: {note}."
        for note, own in labels.items()
    ]


def alignment_notes(curves: Mapping[str, LossCurve]) -> list[str]:
    """Return for every alignment a sentence on the loss and the score at the midpoint, before and after.

    Args:
        curves: Curves by label, the unaligned one first.

    Returns:
        One sentence an alignment.
    """
    unaligned, *others = curves
    before_loss, before_score = _at_midpoint(curves[unaligned])
    notes = []
    for label in others:
        loss, score = _at_midpoint(curves[label])
        change = "lowered" if loss < before_loss else "raised" if loss > before_loss else "did not change"
        advice = "; no alignment is better here" if loss > before_loss else ""
        notes.append(
            f"`{label}` {change} the loss at the midpoint: {before_loss:.4f} -> {loss:.4f}, "
            f"{curves[label].score_name} {before_score:.4f} -> {score:.4f}{advice}"
        )
    return notes


def _at_midpoint(curve: LossCurve) -> tuple[float, float]:
    middle = min(range(len(curve.t)), key=lambda place: abs(curve.t[place] - 0.5))
    return curve.loss[middle], curve.score[middle]


def _error(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
