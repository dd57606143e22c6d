"""The table of barriers, and sentences about it."""

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
    """Return a table of barriers as text.

    Args:
        curves: Curves by label, the unaligned one first.
        distances: 2-Wasserstein distances by label.
        means: Barriers between the means of the same posteriors, by label; no such column if empty or None.
        width: Maximum number of characters per line; further columns continue in another table below. No limit if None.

    Returns:
        The table as text.
    """
    headings, rows = barrier_rows(curves, distances, means)
    # Headings of two lines keep the table narrow enough for a terminal.
    headers = [heading.replace("|", "\n") for heading in headings]
    return plain_table(rows, headers, align=["left", *["right"] * (len(headers) - 1)], width=width)


def barrier_rows(
    curves: Mapping[str, LossCurve], distances: Mapping[str, float | None], means: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of a table of barriers, as text.

    The interior excess is the largest excess loss at 0 < t < 1: the barrier, or negative if there is none. Standard
    errors, bias and t are those of the interior excess. Single networks have no Monte Carlo error.

    Args:
        curves: Curves by label, the unaligned one first.
        distances: 2-Wasserstein distances by label.
        means: Barriers between the means of the same posteriors, by label; no such column if empty or None.

    Returns:
        Headings, with ``|`` at possible line breaks, and one row per label.
    """
    name = {"accuracy": "accuracy", "mean_squared_error": "MSE"}
    rows = []
    for label, curve in curves.items():
        middle = _midpoint(curve)
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
        "interior|excess",
        "MC|s.e.",
        "data|s.e.",
        "bias",
        *([] if not means else ["barrier|of means"]),
        "t of|maximum",
        "endpoint|losses",
        f"{score}|at t = 0.5",
        "W2|distance",
    ]
    return headings, rows


def best_alignment(curves: Mapping[str, LossCurve]) -> tuple[str, str, str]:
    """Return the alignment with the lowest interior excess, and the barriers before and after it, as text.

    Args:
        curves: Curves by label, the unaligned one first.

    Returns:
        The label, the unaligned barrier and the aligned barrier, each with its standard error (`error_name`).
    """
    unaligned, *others = curves
    best = min(others, key=lambda label: curves[label].interior_excess)
    return best, stated_height(curves[unaligned]), stated_height(curves[best])


def stated_height(curve: LossCurve) -> str:
    """Return a barrier with its standard error as text; if it is zero, with the interior excess.

    Args:
        curve: The curve.

    Returns:
        Text such as ``0.1234 ± 0.0056``, or ``0 (interior excess -0.0123 ± 0.0045)``.
    """
    error = curve.height_stderr if curve.is_random else curve.height_data_stderr
    excess = f"{curve.interior_excess:.4f} ± {error:.4f}"
    if curve.interior_excess > 0 and excess != "0.0000 ± 0.0000":
        return excess
    return f"0 (interior excess {curve.interior_excess:+.2g} ± {error:.1g})"


def error_name(curve: LossCurve) -> str:
    """Return the type of the standard error in `stated_height`: Monte Carlo, or finite dataset for single networks.

    Args:
        curve: The curve.

    Returns:
        ``Monte Carlo standard error`` or ``standard error from the finite dataset``.
    """
    return "Monte Carlo standard error" if curve.is_random else "standard error from the finite dataset"


def barrier_notes(curves: Mapping[str, LossCurve]) -> list[str]:
    """Return the caveats of a table of barriers (`LossCurve.notes`).

    Args:
        curves: Curves by label.

    Returns:
        One sentence per note, preceded by the labels of its curves unless it applies to all of them.
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
    """Return one sentence per alignment on the loss and the score at the midpoint, before and after.

    Args:
        curves: Curves by label, the unaligned one first.

    Returns:
        The sentences.
    """
    unaligned, *others = curves
    before_loss, before_score = _at_midpoint(curves[unaligned])
    notes = []
    for label in others:
        loss, score = _at_midpoint(curves[label])
        change = "lowered" if loss < before_loss else "raised" if loss > before_loss else "did not change"
        advice = "; the unaligned pair has the lower loss" if loss > before_loss else ""
        notes.append(
            f"`{label}` {change} the loss at the midpoint: {before_loss:.4f} -> {loss:.4f}, "
            f"{curves[label].score_name} {before_score:.4f} -> {score:.4f}{advice}"
        )
    return notes


def _at_midpoint(curve: LossCurve) -> tuple[float, float]:
    middle = _midpoint(curve)
    return curve.loss[middle], curve.score[middle]


def _midpoint(curve: LossCurve) -> int:
    """Return the index of the point nearest to t = 0.5."""
    return min(range(len(curve.t)), key=lambda index: abs(curve.t[index] - 0.5))


def _error(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
