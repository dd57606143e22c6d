"""Figures of a run: loss curves, training histories, reliability diagrams and unit similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.errors import FileFormatError
from rebasin_core.report.drawing import draw_reliability, draw_similarity
from rebasin_core.report.records import Scores, Similarities, Summary, Training
from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR, save_figure, styled_figure, svg_of
from rebasin_core.tensors.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = ("reference", "candidate")
# A larger range of the training objective has a logarithmic axis.
_LARGE_RATIO = 20
Kind = Literal["barrier", "training", "reliability", "similarity"]


@final
@dataclass(frozen=True, slots=True)
class RunFigure:
    """A figure of a run, for wide pages and for narrow screens.

    Attributes:
        kind: The kind of figure.
        subject: The split, or the matcher; empty if there is one figure of its kind.
        wide: Width and height in inches.
        narrow: Width and height in inches on a narrow screen.
        draw: Draws it; the second argument is whether the screen is narrow.
    """

    kind: Kind
    subject: str
    wide: tuple[float, float]
    narrow: tuple[float, float]
    draw: Callable[[Figure, bool], None]

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.kind}_{self.subject}" if self.subject else self.kind

    def save(self, folder: Path) -> list[Path]:
        """Write the wide figure as PNG, SVG and PDF, and return the paths."""
        with styled_figure(*self.wide) as figure:
            self.draw(figure, False)  # ruff: ignore[boolean-positional-value-in-call] - of a callable
            return save_figure(figure, folder, self.name, formats=("png", "svg", "pdf"))

    def narrow_svg(self) -> bytes:
        """Return the narrow figure as SVG."""
        with styled_figure(*self.narrow) as figure:
            self.draw(figure, True)  # ruff: ignore[boolean-positional-value-in-call] - of a callable
            return svg_of(figure)


def write_figures(folder: Path) -> list[Path]:
    """Draw the figures of a run as PNG, SVG and PDF.

    One figure per split shows the loss along the path before and after alignment (left), and the excess loss of the
    aligned pairs over the linear interpolation of the endpoint losses (right). Bands are ± 2 Monte Carlo standard
    errors; on the right they are paired over samples. Further figures: histories of training, reliability diagrams of
    both posteriors, and unit similarities before and after each matcher.

    Args:
        folder: The run's output folder.

    Returns:
        The files written, in ``figures/``.

    Raises:
        PluginError: If matplotlib is not installed.
        FileFormatError: If there are no curves, or they are damaged.
        StorageError: If the files cannot be written.
    """
    return [path for figure in run_figures(folder) for path in figure.save(folder / "figures")]


def run_figures(folder: Path) -> list[RunFigure]:
    """Return the figures of a run.

    Args:
        folder: The run's output folder.

    Returns:
        The figures, which can be drawn and saved.

    Raises:
        FileFormatError: If there are no curves, or files are damaged.
    """
    splits = sorted(path for path in (folder / "curves").glob("*") if path.is_dir())
    if not splits:
        message = f"{folder} has no curves; expected the folder of a finished run"
        raise FileFormatError(message)
    order = list(Summary.read(folder / "summary.json").wasserstein_distances)
    found: list[RunFigure] = []
    for split in splits:
        curves = {label: LossCurve.from_json(read_json(split / f"{label}.json")) for label in order}
        found.append(_barrier(curves, split.name))
        found += _reliability(score_files(folder, split.name), split.name)
    found += _training(folder)
    for path in sorted((folder / "similarities").glob("*.json")):
        found += _similarity(path)
    return found


def score_files(folder: Path, split: str) -> dict[str, Path]:
    """Return the files with the scores of both posteriors.

    Args:
        folder: The run's output folder.
        split: The split.

    Returns:
        The files of ``reference`` and ``candidate``; empty if a file is missing.
    """
    paths = {role: folder / "scores" / split / f"{role}.json" for role in ROLES}
    return paths if all(path.is_file() for path in paths.values()) else {}


def _barrier(curves: Mapping[str, LossCurve], split: str) -> RunFigure:
    def draw(figure: Figure, narrow: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
        first, second = _panels(figure, 2, narrow=narrow)
        _losses(first, curves)
        _aligned(second, curves)
        figure.suptitle(f"{split} data")
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 2)

    return RunFigure("barrier", split, (9.5, 4.4), (4.4, 7.2 + 0.2 * len(curves)), draw)


def _training(folder: Path) -> list[RunFigure]:
    """Return the figure of the training histories, if a posterior was trained."""
    paths = {role: folder / "training" / f"{role}.json" for role in ROLES}
    histories = {role: Training.read(path) for role, path in paths.items() if path.is_file()}
    if not any(len(found.history) > 1 for found in histories.values()):
        return []

    def draw(figure: Figure, narrow: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
        del narrow
        axes = figure.subplots()
        for index, (role, found) in enumerate(histories.items()):
            axes.plot(range(1, len(found.history) + 1), found.history, LINES[index], color=COLORS[index], label=role)
            if found.validation:
                steps = range(1, len(found.validation) + 1)
                axes.plot(steps, found.validation, ":", color=COLORS[index], label=f"{role}, validation loss")
        values = [value for found in histories.values() for value in (*found.history, *found.validation)]
        if min(values) > 0 and max(values) > _LARGE_RATIO * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel("training objective (nats per example)")
        axes.legend()

    return [RunFigure("training", "", (5.6, 3.4), (4.4, 3.4), draw)]


def _reliability(files: Mapping[str, Path], split: str) -> list[RunFigure]:
    """Return reliability diagrams of both posteriors, for classification."""
    found = {role: Scores.read(path).bins for role, path in files.items()}
    bins = {role: parts for role, parts in found.items() if parts is not None}
    if not bins or len(bins) < len(found):
        return []

    def draw(figure: Figure, narrow: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
        panels = _panels(figure, len(bins), narrow=narrow)
        for axes, (role, parts) in zip(panels, bins.items(), strict=True):
            confidence, accuracy = torch.tensor(parts.confidence), torch.tensor(parts.accuracy)
            draw_reliability(axes, torch.tensor(parts.count), confidence, accuracy)
            axes.set_title(role)

    return [RunFigure("reliability", split, (3.8 * len(bins), 3.4), (4.4, 3.6 * len(bins)), draw)]


def _similarity(path: Path) -> list[RunFigure]:
    """Return unit similarities before (first row) and after (second row) a matcher; one column per group.

    On narrow screens rows are groups.
    """
    groups = Similarities.read(path).root
    if not groups:
        return []

    def draw(figure: Figure, narrow: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument]
        shape = (len(groups), 2) if narrow else (2, len(groups))
        panels = figure.subplots(*shape, squeeze=False)
        if not narrow:
            panels = panels.T
        largest = max(max(map(max, side)) for sides in groups.values() for side in (sides.before, sides.after))
        images = []
        for row, (group, sides) in zip(panels, groups.items(), strict=True):
            for axes, side, matrix in zip(row, ("before", "after"), (sides.before, sides.after), strict=True):
                images.append(draw_similarity(axes, torch.tensor(matrix), largest=max(largest, 1e-6)))
                axes.set_title(f"{group}, {side}", fontsize=9)
        figure.suptitle(f"matcher {path.stem}")
        figure.colorbar(images[0], ax=panels, label="cosine similarity", shrink=0.6)

    wide = (max(2.4 * len(groups), 3.2) + 1.0, 5.4)
    return [RunFigure("similarity", path.stem, wide, (4.8, 2.3 * len(groups) + 0.6), draw)]


def _panels(figure: Figure, count: int, *, narrow: bool) -> list[Axes]:
    """Return panels in a row, or in a column on a narrow screen."""
    shape = (count, 1) if narrow else (1, count)
    panels = figure.subplots(*shape, squeeze=False)
    figure.set_layout_engine("constrained", wspace=0.06)  # distance of a label from the panel on its left
    return list(panels.flat)


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
