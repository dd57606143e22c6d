"""Plots of several loss curves in one figure."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from rebasin_core.barriers.drawing import COLORS, LINES, UNALIGNED_COLOR, new_axes
from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from rebasin_core.barriers.curve import LossCurve


def plot_curves(curves: Mapping[str, LossCurve], axes: Axes | None = None, *, excess: bool = False) -> Axes:
    """Plot several loss curves in one figure, with a legend.

    Args:
        curves: Curves by their labels; one with the label ``unaligned`` is gray.
        axes: Matplotlib axes; those of a new figure if None.
        excess: Whether to plot the excess over the linear interpolation of the endpoint losses, not the loss.

    Returns:
        The axes.

    Raises:
        PluginError: If matplotlib is not installed.
        InvalidInputError: If there is no curve.
    """
    if not curves:
        message = "expected at least one curve, got none"
        raise InvalidInputError(message)
    axes = new_axes() if axes is None else axes
    colors = cycle(COLORS)
    for (label, curve), style in zip(curves.items(), cycle(LINES), strict=False):
        color = UNALIGNED_COLOR if label == "unaligned" else next(colors)
        curve.plot(axes, excess=excess, label=label, color=color, style=style)
    axes.legend(frameon=False)
    return axes
