"""The table at the end of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.barriers.curve import LossCurve


def barrier_table(curves: Mapping[str, LossCurve], distances: Mapping[str, float | None]) -> str:
    """Return a readable table of barriers, the unaligned one first.

    Args:
        curves: Curves by label.
        distances: 2-Wasserstein distances by label.

    Returns:
        The table as text.
    """
    headings, rows = barrier_rows(curves, distances)
    # Two lines a heading keep the table narrow enough for a terminal.
    headers = [heading.replace("|", "\n") for heading in headings]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def barrier_rows(
    curves: Mapping[str, LossCurve], distances: Mapping[str, float | None]
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of a table of barriers, as text.

    Args:
        curves: Curves by label.
        distances: 2-Wasserstein distances by label.

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
            _error(curve.height_stderr),
            _error(curve.height_data_stderr),
            f"{curve.location:.2f}",
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
        "±|sampling",
        "±|data",
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
        The label of the lowest barrier, the unaligned barrier and that one, each with its Monte Carlo standard error.
    """
    unaligned, *others = curves
    best = min(others, key=lambda label: curves[label].height)
    before = f"{curves[unaligned].height:.4f} ± {curves[unaligned].height_stderr:.4f}"
    after = f"{curves[best].height:.4f} ± {curves[best].height_stderr:.4f}"
    return best, before, after


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
