"""Figures of a run: loss curves, reliability diagrams and unit similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.errors import FileFormatError
from rebasin_core.report.drawing import draw_reliability, draw_similarity
from rebasin_core.report.records import Scores, Similarities, Summary
from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR, save_figure, styled_figure
from rebasin_core.tensors.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes


def write_figures(folder: Path) -> list[Path]:
    """Draw the figures of a run as PNG and SVG.

    One figure per split shows the loss along the path before and after alignment (left), and the excess loss of the
    aligned pairs over the linear interpolation of the endpoint losses (right). Bands are ± 2 Monte Carlo standard
    errors; on the right they are paired over samples. Further figures: reliability diagrams of both posteriors, and
    unit similarities before and after each matcher.

    Args:
        folder: The run's output folder.

    Returns:
        The files written, in ``figures/``.

    Raises:
        PluginError: If matplotlib is not installed.
        FileFormatError: If there are no curves, or they are damaged.
        StorageError: If the files cannot be written.
    """
    splits = sorted(path for path in (folder / "curves").glob("*") if path.is_dir())
    if not splits:
        message = f"{folder} has no curves; expected the folder of a finished run"
        raise FileFormatError(message)
    order = list(Summary.read(folder / "summary.json").wasserstein_distances)
    written: list[Path] = []
    for split in splits:
        curves = {label: LossCurve.from_json(read_json(split / f"{label}.json")) for label in order}
        written += _write(curves, folder / "figures", f"barrier_{split.name}", title=f"{split.name} data")
        scores = score_files(folder, split.name)
        written += _write_reliability(scores, folder / "figures", f"reliability_{split.name}")
    for path in sorted((folder / "similarities").glob("*.json")):
        written += _write_similarity(path, folder / "figures")
    return written


def score_files(folder: Path, split: str) -> dict[str, Path]:
    """Return the files with the scores of both posteriors.

    Args:
        folder: The run's output folder.
        split: The split.

    Returns:
        The files of ``reference`` and ``candidate``; empty if a file is missing.
    """
    paths = {role: folder / "scores" / split / f"{role}.json" for role in ("reference", "candidate")}
    return paths if all(path.is_file() for path in paths.values()) else {}


def _write(curves: Mapping[str, LossCurve], folder: Path, name: str, *, title: str) -> list[Path]:
    with styled_figure(9.5, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        _losses(left, curves)
        _aligned(right, curves)
        figure.suptitle(title)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save_figure(figure, folder, name)


def _write_reliability(files: Mapping[str, Path], folder: Path, name: str) -> list[Path]:
    """Draw reliability diagrams of both posteriors, for classification."""
    found = {role: Scores.read(path).bins for role, path in files.items()}
    bins = {role: parts for role, parts in found.items() if parts is not None}
    if not bins or len(bins) < len(found):
        return []
    with styled_figure(3.6 * len(bins), 3.4) as figure:
        for axes, (role, parts) in zip(figure.subplots(1, len(bins), squeeze=False)[0], bins.items(), strict=True):
            draw_reliability(
                axes, torch.tensor(parts.count), torch.tensor(parts.confidence), torch.tensor(parts.accuracy)
            )
            axes.set_title(role)
        return save_figure(figure, folder, name)


def _write_similarity(path: Path, folder: Path) -> list[Path]:
    """Draw unit similarities before (first row) and after (second row) a matcher; one column per group."""
    groups = Similarities.read(path).root
    if not groups:
        return []
    with styled_figure(max(2.4 * len(groups), 3.2), 5.2) as figure:
        panels = figure.subplots(2, len(groups), squeeze=False)
        for column, (group, sides) in enumerate(groups.items()):
            matrices = {"before": torch.tensor(sides.before), "after": torch.tensor(sides.after)}
            largest = max(float(matrix.max()) for matrix in matrices.values())
            for row, (side, matrix) in enumerate(matrices.items()):
                draw_similarity(panels[row, column], matrix, largest=max(largest, 1e-6))
                panels[row, column].set_title(f"{group}, {side}")
        return save_figure(figure, folder, f"similarity_{path.stem}")


def _losses(axes: Axes, curves: Mapping[str, LossCurve]) -> None:
    for index, (label, curve) in enumerate(curves.items()):
        text = f"{label}: barrier {curve.height:.3f}"
        curve.plot(axes, label=text, color=_color(index), style=LINES[index % len(LINES)])
    axes.set_ylim(bottom=0)
    axes.set_title("loss before and after alignment")


def _aligned(axes: Axes, curves: Mapping[str, LossCurve]) -> None:
    """Draw the excess loss of the aligned curves, in which common random numbers cancel most Monte Carlo error."""
    axes.axhline(0, color="black", linewidth=0.8)
    for index, curve in enumerate(curves.values()):
        if index > 0:
            style = LINES[index % len(LINES)]
            curve.plot(axes, excess=True, color=_color(index), style=style)
    axes.set_title("excess loss after alignment")


def _color(index: int) -> str:
    return UNALIGNED_COLOR if index == 0 else COLORS[(index - 1) % len(COLORS)]
