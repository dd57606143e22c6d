"""Figures of the results of a study: the barrier against each factor."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR, save_figure, styled_figure
from rebasin_core.studies.results.row import UNALIGNED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from rebasin_core.studies.results.results import Results
    from rebasin_core.studies.results.row import Scalar
    from rebasin_core.studies.results.table import Group, Table

# Larger ratios of the levels of a factor are drawn on a logarithmic axis.
_MAX_LINEAR_RATIO = 10.0
# Horizontal distance of the bars of two lines, as a fraction of the range of the levels.
_SHIFT = 0.012
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")


def draw_means(axes: Axes, table: Table, factor: str, *, measure: str = "height") -> None:
    """Plot a mean against a factor, one line for each alignment; bars are 95 % confidence intervals.

    The axis is numeric if all levels are numbers, and logarithmic if they span more than a factor of 10. Otherwise
    levels are equally spaced, in the order of the table.

    Args:
        axes: Matplotlib axes.
        table: Means by the factor, of one split and one barrier estimator.
        factor: The column of the horizontal axis.
        measure: The measure to plot.
    """
    groups = [group for group in table.groups if measure in group.means]
    levels = list(dict.fromkeys(group.keys[factor] for group in groups))
    numbers = [level for level in levels if isinstance(level, int | float) and not isinstance(level, bool)]
    is_numeric = len(numbers) == len(levels) > 1
    alignments = list(dict.fromkeys(str(group.keys["alignment"]) for group in groups))
    _label_axis(axes, factor, levels, is_numeric=is_numeric)
    aligned = [name for name in alignments if name != UNALIGNED]
    for index, alignment in enumerate(alignments):
        own = [group for group in groups if group.keys["alignment"] == alignment]
        positions = [_position(group.keys[factor], levels, is_numeric=is_numeric) for group in own]
        is_line = is_numeric or len(levels) > 1
        color = UNALIGNED_COLOR if alignment == UNALIGNED else COLORS[aligned.index(alignment) % len(COLORS)]
        style = LINES[index % len(LINES)] if is_line else ""
        shifted = _shifted(positions, index - (len(alignments) - 1) / 2, axes.get_xscale())
        _draw_line(axes, shifted, own, measure, label=alignment, color=color, style=style)
    axes.set_ylabel("barrier" if measure == "height" else measure.replace("_", " "))


def write_figures(results: Results, folder: Path, *names: str) -> list[Path]:
    """Draw the barrier against factors, as PNG and SVG: one figure for each factor.

    A figure has one row of panels for each split, with one panel for each barrier estimator. The barrier is the mean
    over pairs, and over the cells that differ in other factors; bars are 95 % confidence intervals.

    Args:
        results: The results.
        folder: Output folder.
        *names: Factors, as in `Results.group_by`; all factors with several levels if none is given. Without any such
            factor, the barrier is plotted against the alignment.

    Returns:
        The files written.

    Raises:
        PluginError: If matplotlib is not installed.
        UnknownNameError: If a name is unknown.
        StorageError: If the files cannot be written.
    """
    written: list[Path] = []
    for factor in results.resolved(*names) if names else _varied(results):
        table = results.group_by(factor)
        splits = list(dict.fromkeys(group.keys["split"] for group in table.groups))
        barriers = list(dict.fromkeys(group.keys["barrier"] for group in table.groups))
        with styled_figure(4.6 * len(barriers), 3.8 * len(splits)) as figure:
            panels = figure.subplots(len(splits), len(barriers), squeeze=False)
            for row, split in enumerate(splits):
                for column, barrier in enumerate(barriers):
                    axes = panels[row, column]
                    draw_means(axes, table.where(split=split, barrier=barrier), factor)
                    axes.set_title(f"{barrier}, {split} data")
            handles, labels = panels[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
            written += save_figure(figure, folder, f"barrier_{_UNSAFE.sub('_', factor)}")
    return written


def _varied(results: Results) -> Sequence[str]:
    """Return the factors with several levels, or the alignment if there is none."""
    columns = results.columns()
    return [name for name in results.factors if len(set(columns[name])) > 1] or ["alignment"]


def _draw_line(  # ruff: ignore[too-many-arguments] - keywords of a plot
    axes: Axes, positions: Sequence[float], groups: Sequence[Group], measure: str, *, label: str, color: str, style: str
) -> None:
    means = [group.means[measure] for group in groups]
    halves = [mean.mean - mean.interval()[0] for mean in means]
    container = axes.errorbar(
        positions,
        [mean.mean for mean in means],
        yerr=[0.0 if math.isnan(half) else half for half in halves],
        label=label,
        color=color,
        marker="o",
        markersize=4,
        capsize=2,
    )
    container[0].set_linestyle(style or "none")


def _shifted(positions: Sequence[float], steps: float, scale: str) -> list[float]:
    """Return positions shifted horizontally, to keep bars of several lines apart."""
    if scale == "log":
        ratio = max(positions) / min(positions)
        return [position * ratio ** (_SHIFT * steps) for position in positions]
    extent = max(positions) - min(positions) or 1.0
    return [position + _SHIFT * steps * extent for position in positions]


def _position(level: Scalar, levels: Sequence[Scalar], *, is_numeric: bool) -> float:
    if is_numeric and isinstance(level, int | float):
        return level
    return levels.index(level)


def _label_axis(axes: Axes, factor: str, levels: Sequence[Scalar], *, is_numeric: bool) -> None:
    axes.set_xlabel(factor)
    if not is_numeric:
        axes.set_xticks(range(len(levels)), [str(level) for level in levels])
        axes.set_xlim(-0.5, len(levels) - 0.5)
        return
    numbers = [level for level in levels if isinstance(level, int | float)]
    if min(numbers) > 0 and max(numbers) / min(numbers) > _MAX_LINEAR_RATIO:
        axes.set_xscale("log")
