"""How a loss curve is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.errors import PluginError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rebasin_core.barriers.curve import LossCurve


_METRICS = {
    "nll": ("loss", " (nats)"),
    "gibbs": ("Gibbs loss", " (nats)"),
    "error": ("error rate", ""),
    "brier": ("Brier score", ""),
    "squared_error": ("squared error", ""),
}


def draw_curve(
    curve: LossCurve,
    axes: Axes | None = None,
    *,
    above: bool = False,
    label: str | None = None,
    color: str | None = None,
    style: str = "-",
) -> Axes:
    """Draw a loss curve with a band of two Monte Carlo standard errors.

    Args:
        curve: The curve.
        axes: Matplotlib axes; a new figure's if not given.
        above: Whether to draw the height above the line between the end losses, with its paired standard errors.
        label: For the legend.
        color: A matplotlib colour; the next of the cycle if not given.
        style: A matplotlib line style.

    Returns:
        The axes.

    Raises:
        PluginError: If matplotlib is not installed.
    """
    axes = _new_axes() if axes is None else axes
    values, stderr = (curve.above, curve.above_stderr) if above else (curve.loss, curve.stderr)
    (line,) = axes.plot(curve.t, values, style, marker="o", markersize=3.5, label=label, color=color)
    # An unknown error (NaN) is drawn without a band.
    errors = [2 * error if math.isfinite(error) else 0.0 for error in stderr]
    low, high = ([v + sign * e for v, e in zip(values, errors, strict=True)] for sign in (-1, 1))
    axes.fill_between(curve.t, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("place on the path $t$")
    name, unit = _METRICS.get(curve.metric, (curve.metric, ""))
    axes.set_ylabel(f"{name} above the line between the ends{unit}" if above else f"{name}{unit} per example")
    return axes


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot as plt  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "drawing needs matplotlib; install it with: pip install 'rebasin-core[plot]'"
        raise PluginError(message) from error
    return plt.subplots()[1]
