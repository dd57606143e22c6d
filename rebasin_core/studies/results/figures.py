"""Figures of the results of a study: the barrier against each factor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rebasin_core.config.study import UNALIGNED
from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR, save_figure, styled_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from rebasin_core.studies.results.results import Results
    from rebasin_core.studies.results.row import Scalar
    from rebasin_core.studies.results.table import Group, Table

# Larger ratios of the levels of a factor are drawn on a logarithmic axis.
_MAX_LINEAR_RATIO = 10.0
# Horizontal distance of the bars of two alignments: as a fraction of the range of numeric levels, and between names.
_SHIFT = 0.012
_SHIFT_OF_NAMES = 0.08
# More levels than this are not labeled one by one.
_MAX_TICKS = 8
_PANELS = ("split", "barrier")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]")


def draw_means(axes: Axes, table: Table, factor: str, *, measure: str = "height") -> None:
    """Plot a mean against a factor, for each alignment; bars are 95 % confidence intervals.

    The axis is numeric if all levels are numbers, and logarithmic if they span more than a factor of 10; the means of
    an alignment are then connected by a line. Otherwise levels are equally spaced, in the order of the table. A group
    without an interval, such as one of fewer than three networks, has no bar.

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
        color = UNALIGNED_COLOR if alignment == UNALIGNED else COLORS[aligned.index(alignment) % len(COLORS)]
        style = LINES[index % len(LINES)] if is_numeric else ""
        # Of a factor that is the alignment itself, each position has one bar only.
        steps = 0.0 if factor == "alignment" else index - (len(alignments) - 1) / 2
        shifted = _shifted(positions, steps, axes.get_xscale(), is_numeric=is_numeric)
        _draw_line(axes, shifted, own, measure, label=alignment, color=color, style=style)
    axes.set_ylabel("barrier" if measure == "height" else measure.replace("_", " "))


def write_figures(results: Results, folder: Path, *names: str) -> list[Path]:
    """Draw the barrier against factors, as PNG and SVG.

    A figure has one row of panels for each split, with one panel for each barrier estimator. The barrier is the mean
    over pairs, and over the cells that differ in other factors; bars are 95 % confidence intervals.

    Args:
        results: The results.
        folder: Output folder.
        *names: Factors, as in `Results.group_by`: the barrier is plotted against the first one, in one figure for each
            combination of levels of the others. Without names there is one figure for each factor with several levels,
            or, if there is none, one against the alignment.

    Returns:
        The files written.

    Raises:
        PluginError: If matplotlib is not installed.
        UnknownNameError: If a name is unknown.
        StorageError: If the files cannot be written.
    """
    chosen = [name for name in results.resolved(*names) if name not in _PANELS]
    if not chosen:
        return [path for factor in _varied(results) for path in _write(results.group_by(factor), folder, factor, {})]
    axis, *others = chosen
    others = [name for name in others if name != "alignment"]
    table = results.group_by(axis, *others)
    combinations = dict.fromkeys(tuple(group.keys[name] for name in others) for group in table.groups)
    written: list[Path] = []
    for levels in combinations:
        fixed = dict(zip(others, levels, strict=True))
        written += _write(table.where(**fixed), folder, axis, fixed, used=[path.stem for path in written])
    return written


def _write(
    table: Table, folder: Path, factor: str, fixed: Mapping[str, Scalar], *, used: Sequence[str] = ()
) -> list[Path]:
    """Draw one figure: the barriers of a table against a factor; ``fixed`` are the levels of other factors."""
    splits = list(dict.fromkeys(group.keys["split"] for group in table.groups))
    barriers = list(dict.fromkeys(group.keys["barrier"] for group in table.groups))
    if not splits:
        return []
    with styled_figure(4.6 * len(barriers), 3.8 * len(splits)) as figure:
        panels = figure.subplots(len(splits), len(barriers), squeeze=False)
        for row, split in enumerate(splits):
            for column, barrier in enumerate(barriers):
                axes = panels[row, column]
                draw_means(axes, table.where(split=split, barrier=barrier), factor)
                axes.set_title(f"{barrier}, {split} data")
        if fixed:
            figure.suptitle(", ".join(f"{name}: {level}" for name, level in fixed.items()))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
        suffix = "".join(f"_{name}={level}" for name, level in fixed.items())
        name = f"barrier_{_UNSAFE.sub('_', factor + suffix)}"
        return save_figure(figure, folder, f"{name}_{len(used)}" if name in used else name)


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
        yerr=halves,
        label=label,
        color=color,
        marker="o",
        markersize=4,
        capsize=2,
    )
    container[0].set_linestyle(style or "none")


def _shifted(positions: Sequence[float], steps: float, scale: str, *, is_numeric: bool) -> list[float]:
    """Return positions shifted horizontally, to keep bars of several alignments apart."""
    if not is_numeric:
        return [position + _SHIFT_OF_NAMES * steps for position in positions]
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
    if len(numbers) <= _MAX_TICKS:
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xticks([], minor=True)
