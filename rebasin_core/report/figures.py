"""Figures of a run: the loss curves before and after alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.drawing import draw_curve
from rebasin_core.errors import FileFormatError, PluginError
from rebasin_core.tensors.files import read_json, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey for what was not aligned.
_UNALIGNED_COLOR = "#666666"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", "-.", ":")
_STYLE: dict[str, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "rebasin_core",
}


def write_figures(folder: Path) -> list[Path]:
    """Draw the curves of a run, one figure a split, as PNG and SVG.

    The left panel shows the loss of all alignments, the right one what is left after alignment: the height above the
    straight line between the end losses, at its own scale. Bands are two standard errors, on the right paired ones.

    Args:
        folder: The run's folder.

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
    order = list(read_json(folder / "summary.json")["wasserstein_distances"])
    written: list[Path] = []
    for split in splits:
        curves = {label: LossCurve.from_json(read_json(split / f"{label}.json")) for label in order}
        written += _write(curves, folder / "figures", f"barrier_{split.name}", title=f"{split.name} data")
    return written


def _write(curves: Mapping[str, LossCurve], folder: Path, name: str, *, title: str) -> list[Path]:
    try:
        from matplotlib import rc_context  # ruff: ignore[import-outside-top-level] - an extra
        from matplotlib.figure import Figure  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "figures need matplotlib; install it with: pip install 'rebasin-core[plot]'"
        raise PluginError(message) from error
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    with rc_context(cast("Any", _STYLE)):  # its keys are typed one by one
        figure = Figure(figsize=(9.5, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _losses(left, curves)
        _aligned(right, curves)
        figure.suptitle(title)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        for path in paths:
            with replacing(path) as temporary:
                # Without a date the same curves give the same bytes.
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths


def _losses(axes: Axes, curves: Mapping[str, LossCurve]) -> None:
    for index, (label, curve) in enumerate(curves.items()):
        text = f"{label}: barrier {curve.height:.3f}"
        draw_curve(curve, axes, label=text, color=_color(index), style=_STYLES[index % len(_STYLES)])
    axes.set_ylim(bottom=0)
    axes.set_title("loss, before and after alignment")


def _aligned(axes: Axes, curves: Mapping[str, LossCurve]) -> None:
    """Draw what is left: the aligned curves above the line between their ends, where shared noise cancels."""
    axes.axhline(0, color="black", linewidth=0.8)
    for index, curve in enumerate(curves.values()):
        if index > 0:
            style = _STYLES[index % len(_STYLES)]
            draw_curve(curve, axes, above=True, color=_color(index), style=style)
    axes.set_title("what is left after alignment, enlarged")


def _color(index: int) -> str:
    return _UNALIGNED_COLOR if index == 0 else _COLORS[(index - 1) % len(_COLORS)]
