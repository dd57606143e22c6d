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
    name = {"accuracy": "accuracy", "mean_squared_error": "MSE"}
    rows = []
    for label, curve in curves.items():
        middle = len(curve.t) // 2
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
    score = name[next(iter(curves.values())).score_name]
    # Two lines a heading keep the table narrow enough for a terminal.
    headings = (
        "alignment",
        "barrier|(nats)",
        "±|sampling",
        "±|data",
        "at t",
        "end|losses",
        f"{score}|at 0.5",
        "W2|distance",
    )
    headers = [heading.replace("|", "\n") for heading in headings]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def _error(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
