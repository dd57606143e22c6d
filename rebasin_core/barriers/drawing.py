"""Curves with bands of two standard errors, on matplotlib axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colors of Okabe and Ito, distinguishable with color vision deficiency."""

UNALIGNED_COLOR = "#666666"
"""Gray, for the unaligned pair."""

LINES = ("-", "--", "-.", ":")
"""Line styles, to distinguish curves in black-and-white print."""


def draw_band(  # ruff: ignore[too-many-arguments] - data and style of a curve
    axes: Axes,
    t: Sequence[float],
    values: Sequence[float],
    stderr: Sequence[float],
    *,
    label: str | None = None,
    color: str | None = None,
    style: str = "-",
) -> None:
    """Draw a curve with a band of two standard errors.

    Args:
        axes: Matplotlib axes.
        t: Interpolation coefficients, in [0, 1].
        values: Value at each t.
        stderr: Standard errors of the values; where one is NaN, the band has zero width.
        label: Label in the legend.
        color: Matplotlib color; the next of the color cycle if None.
        style: Matplotlib line style.
    """
    (line,) = axes.plot(t, values, style, marker="o", markersize=3.5, label=label, color=color)
    errors = [2 * error if math.isfinite(error) else 0.0 for error in stderr]
    low = [value - error for value, error in zip(values, errors, strict=True)]
    high = [value + error for value, error in zip(values, errors, strict=True)]
    axes.fill_between(t, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def new_axes() -> Axes:
    """Return the axes of a new figure.

    Raises:
        PluginError: If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "drawing needs matplotlib; install it with: pip install 'rebasin-core[plot]'"
        raise PluginError(message) from error
    return plt.subplots()[1]
